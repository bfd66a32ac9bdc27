"""Pushes a repository to the place where another machine's server reads its models, and makes that server load it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
from tritonclient.utils import InferenceServerException

from dynamicdet.errors import InputError, MissingExtraError, ServerError
from dynamicdet.files import whole_file, whole_folder
from dyndet_bench.measuring.served import Served
from dyndet_builder.engines.record import check_engines_there
from dyndet_builder.operating_points import FILE_NAME as POINTS_FILE
from dyndet_client.errors import ServerUnreachableError
from dyndet_client.settings import Connection
from dyndet_client.transport import triton_client

ADMIN_HEADER = "dyndet-admin"
"""header in which a deployment's server expects the admin key"""
ADMIN_VARIABLE = "DYNDET_ADMIN_KEY"
"""environment variable that holds this key"""

_LOAD_S = 1800.0
"""the server may build engines while it loads"""
_GRPC_PREFIX = "triton-grpc-protocol-"
"""prefix that Triton expects in the name of a restricted protocol's header"""


def admin_headers() -> dict[str, str]:
    """The header that a server of `dyndet deploy` requires to load models, with the key from the environment."""
    key = os.environ.get(ADMIN_VARIABLE)
    return {_GRPC_PREFIX + ADMIN_HEADER: key} if key else {}


@dataclass(frozen=True, kw_only=True)
class RemoteServer:
    """A server that dyndet does not start itself, in explicit model-control mode."""

    url: str
    """its gRPC address"""
    models: str
    """the place of its models, as this machine reaches it: a folder, or a URL such as s3://bucket/models"""
    metrics_url: str | None = None
    admin_headers: Mapping[str, str] = field(default_factory=admin_headers, repr=False)
    """sent with requests that load models, for servers that restrict them; default: see `admin_headers`"""

    def __post_init__(self) -> None:
        Connection.make(self.url, headers=self.admin_headers)  # refuses headers that cannot be sent

    def deploy(self, repository: Path, detector: str) -> tuple[str, ...]:
        """Push a repository's models and load them, the public detector last; returns their names.

        Models of these names are replaced, others stay as they are. Raises ServerError with the server's own words if
        it does not load one, and InputError if `models` cannot be written or engines are for another TensorRT.
        """
        names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
        names.sort(key=lambda name: name == detector)
        self._check_controllable(detector, repository)
        for name in names:
            self._push(repository / name, name)
        for name in names:
            self._load(name)
        with Served(self.url, detector, metrics_url=self.metrics_url) as served:
            served.warm_up()
        return tuple(names)

    def update_points(self, repository: Path, detector: str) -> None:
        """Push only the operating points; a server that copied its models from a bucket loads the detector again."""
        source = repository / detector / "1" / POINTS_FILE
        if (folder := self._folder()) is not None:
            _replace(source, folder / detector / "1" / POINTS_FILE)
        else:
            with _storage_errors(self.models):
                filesystem, root = fsspec.url_to_fs(self.models)
                filesystem.put_file(str(source), f"{root}/{detector}/1/{POINTS_FILE}")
            self._load(detector)

    def _folder(self) -> Path | None:
        """`models` as a folder; None if it is an object store."""
        return None if "://" in self.models else Path(self.models)

    def _push(self, source: Path, name: str) -> None:
        folder = self._folder()
        if folder is None:
            with _storage_errors(self.models):
                filesystem, root = fsspec.url_to_fs(self.models)
                target = f"{root}/{name}"
                if filesystem.exists(target):
                    filesystem.rm(target, recursive=True)
                filesystem.put(f"{source}/", f"{target}/", recursive=True)
            return
        if not folder.is_dir():
            raise InputError(f"{folder}, where the server reads its models, does not exist on this machine")
        _replace(source, folder / name)

    def _check_controllable(self, detector: str, repository: Path) -> None:
        """Check, before anything is written, that the server lets clients load models and can run these."""
        with _server_errors(self.url), triton_client(self.url) as client:
            check_engines_there(repository, self.url, str(client.get_server_metadata().version))
            client.get_model_repository_index(headers=self.admin_headers)
            try:
                client.unload_model(detector, headers=self.admin_headers, unload_dependents=False)
            except InferenceServerException as error:
                if "not allowed" in str(error.message()) or "polling" in str(error.message()):
                    raise ServerError(
                        f"the server at {self.url} does not let clients load models ({error.message()}); start it with "
                        "--model-control-mode=explicit"
                    ) from error

    def _load(self, name: str) -> None:
        with _server_errors(self.url), triton_client(self.url) as client:
            client.load_model(name, headers=self.admin_headers, client_timeout=_LOAD_S)
            deadline = time.monotonic() + _LOAD_S
            while not client.is_model_ready(name):
                if time.monotonic() > deadline:
                    raise ServerError(f"model {name!r} was not ready on the server at {self.url} within {_LOAD_S:g} s")
                time.sleep(0.2)


def _replace(source: Path, target: Path) -> None:
    """Replace a file or folder by another; a reader sees the old one, the new one or, for a moment, neither."""
    try:
        if source.is_dir():
            with whole_folder(target, marker=None) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
        else:
            with whole_file(target) as file:
                shutil.copy2(source, file)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error


@contextmanager
def _server_errors(url: str) -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        reason = str(error.message() or "no reason given").strip().replace("\n", " ")
        if "restricted" in reason:  # such an error can have the status UNAVAILABLE, too
            raise ServerError(
                f"the server at {url} restricts who can load models ({reason}); set {ADMIN_VARIABLE} to the key of a "
                "dyndet deployment, or give --admin-header"
            ) from error
        if str(error.status()).endswith("UNAVAILABLE"):
            raise ServerUnreachableError(f"no Triton server answers at {url}: {reason}") from error
        raise ServerError(f"the server at {url} refused: {reason}") from error


@contextmanager
def _storage_errors(models: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{models} needs a package that is not installed ({error}); run `pip install s3fs` for s3://, or "
            "`pip install gcsfs` for gs://"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{models} cannot be written: {error}") from error
