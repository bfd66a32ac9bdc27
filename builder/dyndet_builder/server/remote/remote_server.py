"""A server on another machine: pushes builds of a detector to it without an interruption, and takes them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.redaction import public_address
from dyndet_bench.measuring.own_metrics import OwnMetrics
from dyndet_builder.engines.record import check_engines_there
from dyndet_builder.operating_points import FILE_NAME as POINTS_FILE
from dyndet_builder.operating_points import content_of_points, points_file
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.server.admin import ADMIN_HEADER, ADMIN_VARIABLE, admin_headers
from dyndet_builder.server.remote.control import ModelControl
from dyndet_builder.server.remote.folder import Folder
from dyndet_builder.server.remote.models import read_source
from dyndet_builder.server.remote.objects import ObjectStore
from dyndet_builder.server.remote.place import Place
from dyndet_builder.server.remote.push import Candidate, Deployed, Push
from dyndet_builder.server.remote.storage import Storage
from dyndet_client.settings import Connection

__all__ = ["ADMIN_HEADER", "ADMIN_VARIABLE", "Candidate", "Deployed", "RemoteServer", "admin_headers"]


def _storage_at(models: str) -> Storage:
    """The storage at a path or URL. Raises InputError if the folder does not exist."""
    if "://" in models:
        return ObjectStore(models)
    folder = Path(models)
    if not folder.is_dir():
        raise InputError(f"{folder}, where the server reads its models, does not exist on this machine")
    return Folder(folder)


def _check_name(detector: str) -> None:
    """Raise InputError for a name that no rendered detector has."""
    RenderOptions(name=detector)


def _nothing(_candidate: Candidate) -> None:
    """What happens between the probe and the switch by default."""


@dataclass(frozen=True, kw_only=True)
class RemoteServer:
    """A server that dyndet does not start itself, in explicit model-control mode."""

    url: str
    """its gRPC address"""
    models: str = field(repr=False)
    """the place of its models, as this machine reaches it: a folder, or a URL such as s3://bucket/models"""
    metrics_url: str | None = None
    admin_headers: Mapping[str, str] = field(default_factory=admin_headers, repr=False)
    """sent with requests that load models, for servers that restrict them; default: see `admin_headers`"""
    wait_s: float = 60.0
    """longest time to wait for another push of the same detector"""
    settle_s: float = 3.0
    """seconds without a request after which the stage models of a replaced build are unloaded"""
    change_contract: bool = False
    """whether a build may have another input size or other class names than the one in use"""

    def __post_init__(self) -> None:
        Connection.make(self.url, headers=self.admin_headers)  # refuses headers that cannot be sent
        if self.metrics_url is not None:
            OwnMetrics(self.metrics_url, "")  # refuses what is not an address

    def check(self, detector: str) -> None:
        """Check all that `deploy` needs of the server and the place of its models, before any work.

        Raises InputError and ServerError as `deploy` does.
        """
        _check_name(detector)
        _storage_at(self.models)
        self._control().check_allowed()

    def deploy(
        self,
        repository: Path,
        detector: str,
        *,
        before_switch: Callable[[Candidate], None] = _nothing,
        progress: Progress = silent,
    ) -> Deployed:
        """Push a repository's build of a detector: beside the running one first, which answers until the switch.

        The new build is loaded, warmed and probed under another name. `before_switch` may compare or calibrate it
        there; an error that it raises ends the push. Then the server switches to it without losing a request, and the
        old build is unloaded. It stays in an archive beside the models, for `rollback`. Other models are not touched.

        If anything fails, the old build stays in use and the new one is removed. If this process is killed, the next
        push does that. Raises ServerError, in the server's own words, if it does not let clients load models, does not
        load one or gives no right answer; InputError if the repository holds no such detector, `models` cannot be
        written, another push is running, engines are for another TensorRT, or the input size or the class names differ
        from those in use and `change_contract` is false.
        """
        push, control = self._push(detector, progress)
        if not repository.is_dir():
            found = "it is a file" if repository.exists() else "no such folder"
            raise InputError(f"{repository} is not a model repository: {found}; `dyndet render` writes one")
        read_source(Folder(repository), detector)
        check_engines_there(repository, self.url, control.check_allowed())
        return push.build(repository, before_switch)

    def rollback(
        self,
        detector: str,
        *,
        before_switch: Callable[[Candidate], None] = _nothing,
        progress: Progress = silent,
    ) -> Deployed:
        """Go back to the build that the last push replaced, in the same way and with the same errors as `deploy`.

        The build that was running takes its place in the archive, so a second rollback returns to it. Raises InputError
        if there is no earlier build.
        """
        push, control = self._push(detector, progress)
        control.check_allowed()
        return push.back(before_switch)

    def update_points(self, repository: Path, detector: str) -> None:
        """Push only the operating points; a server that copied its models from a bucket loads the detector again."""
        storage = _storage_at(self.models)
        busy = f"a push of {detector!r} to {public_address(self.models)} is running"
        with storage.lock(f".{detector}.lock", wait_s=self.wait_s, busy=busy):
            content = content_of_points(points_file(repository, detector))
            storage.write(f"{detector}/1/{POINTS_FILE}", content)
            if not storage.trades_places:
                self._control().load(detector)

    def _control(self) -> ModelControl:
        return ModelControl(self.url, self.admin_headers)

    def _push(self, detector: str, progress: Progress) -> tuple[Push, ModelControl]:
        """What pushes to this detector, and its server's control. Raises InputError for a wrong name or folder."""
        _check_name(detector)
        control = self._control()
        push = Push(
            Place(control, _storage_at(self.models), detector),
            metrics_url=self.metrics_url,
            wait_s=self.wait_s,
            settle_s=self.settle_s,
            change_contract=self.change_contract,
            progress=progress,
        )
        return push, control
