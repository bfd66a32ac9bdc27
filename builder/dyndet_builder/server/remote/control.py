"""Loads, unloads and looks at the models of a server that runs elsewhere, through Triton's model control."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dynamicdet.errors import ServerError
from dyndet_builder.server.admin import ADMIN_VARIABLE
from dyndet_client.errors import ServerUnreachableError
from dyndet_client.protocol import cause_of
from dyndet_client.transport import triton_client

_LOAD_S = 1800.0
"""the server may build engines while it loads"""
_NO_MODEL = "dyndet/no such model"
"""a name that no model can have, because a model is a folder"""
_EMPTY_CONFIG = json.dumps({"backend": "python", "max_batch_size": 0, "instance_group": [{"kind": "KIND_CPU"}]})
_EMPTY_MODEL = b"class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
_FORGOTTEN_S = 10.0
_POLL_S = 0.1

_Result = TypeVar("_Result")


class ModelControl:
    """What one server does with its models. Every method raises ServerError in the server's own words."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """`headers` are sent with every call, for servers that restrict who may load models."""
        self.url = url
        self._headers = dict(headers)

    def check_allowed(self) -> str:
        """Check that clients may load models, without touching a model; returns the server's version."""

        def ask(client: triton.InferenceServerClient) -> str:
            version = str(client.get_server_metadata().version)
            client.get_model_repository_index(headers=self._headers)
            try:
                self._unload(_NO_MODEL, client)
            except InferenceServerException as error:
                if "not allowed" in str(error.message()) or "polling" in str(error.message()):
                    raise ServerError(
                        f"the server at {self.url} does not let clients load models; start it with `dyndet serve "
                        "--model-control explicit`, or Triton with --model-control-mode=explicit"
                    ) from error
            return version

        return self._ask(ask)

    def load(self, *names: str) -> None:
        """Load models one after another, each until it is ready; a loaded one is replaced without a pause.

        Not at the same time: Triton 2.51 can abort if many Python models start and stop on few cores.
        """
        for name in names:
            self._ask(partial(self._load, name))
            self._wait(f"was not ready within {_LOAD_S:g} s", name, partial(self.is_ready, name))

    def unload(self, names: Iterable[str]) -> None:
        """Unload models and wait until they are gone; one that is not loaded is no error."""
        names = tuple(names)
        for name in names:
            self._ask(partial(self._unload, name))
        for name in names:
            self._wait(f"was not unloaded within {_LOAD_S:g} s", name, partial(self._is_gone, name))

    def forget(self, names: Iterable[str]) -> None:
        """Make the server forget that unloaded models failed to load, because until then it does not call itself ready.

        A model of no use is loaded under the name, from memory, and unloaded again.
        """
        if self._is_server_ready():
            return
        names = set(names)
        failed = names & self._failed()
        for group in (failed, names - failed):  # a reset takes seconds, and mostly only one model failed
            for name in sorted(group):
                self._ask(partial(self._load_empty, name))
            self.unload(group)
            if self._is_server_ready():
                return
        deadline = time.monotonic() + _FORGOTTEN_S  # another model may have failed, too
        while not self._is_server_ready() and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def is_ready(self, name: str) -> bool:
        """Whether a model is loaded."""
        return self._ask(lambda client: bool(client.is_model_ready(name)))

    def config(self, name: str) -> Mapping[str, Any] | None:
        """The configuration of a loaded model as JSON; None if it is not loaded."""
        if not self.is_ready(name):
            return None
        answer: dict[str, Any] = self._ask(
            lambda client: client.get_model_config(name, headers=self._headers, as_json=True)
        )
        found: dict[str, Any] = answer.get("config", {})
        return found

    def parameters(self, name: str) -> Mapping[str, str] | None:
        """The parameters in the configuration of a loaded model; None if it is not loaded."""
        config = self.config(name)
        if config is None:
            return None
        found = config.get("parameters", {})
        return {key: str(value.get("string_value", "")) for key, value in found.items()}

    def wait_until_idle(self, names: Sequence[str], *, quiet_s: float, longest_s: float) -> None:
        """Wait until none of these models has answered anything for some seconds."""
        deadline = time.monotonic() + longest_s
        before, since = self._answered(names), time.monotonic()
        while names and (now := time.monotonic()) - since < quiet_s and now < deadline:
            time.sleep(_POLL_S)
            counted = self._answered(names)
            if counted != before:
                before, since = counted, time.monotonic()

    def _is_server_ready(self) -> bool:
        return self._ask(lambda client: bool(client.is_server_ready()))

    def _load(self, name: str, client: triton.InferenceServerClient) -> None:
        client.load_model(name, headers=self._headers, client_timeout=_LOAD_S)

    def _load_empty(self, name: str, client: triton.InferenceServerClient) -> None:
        client.load_model(name, headers=self._headers, config=_EMPTY_CONFIG, files={"file:1/model.py": _EMPTY_MODEL})

    def _unload(self, name: str, client: triton.InferenceServerClient) -> None:
        client.unload_model(name, headers=self._headers, unload_dependents=False)

    def _failed(self) -> set[str]:
        """Models that the server could not load; for one that was unloaded, it gives the reason "unloaded"."""
        index = self._ask(lambda client: client.get_model_repository_index(headers=self._headers))
        return {one.name for one in index.models if one.state == "UNAVAILABLE" and one.reason not in ("", "unloaded")}

    def _is_gone(self, name: str) -> bool:
        index = self._ask(lambda client: client.get_model_repository_index(headers=self._headers))
        return all(one.name != name or one.state in ("", "UNAVAILABLE") for one in index.models)

    def _wait(self, failure: str, name: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _LOAD_S
        while not done():
            if time.monotonic() > deadline:
                raise ServerError(f"model {name!r} {failure} on the server at {self.url}")
            time.sleep(_POLL_S)

    def _answered(self, names: Sequence[str]) -> list[int]:
        def count(client: triton.InferenceServerClient, name: str) -> int:
            try:
                answer = client.get_inference_statistics(name, headers=self._headers, as_json=True)
            except InferenceServerException as error:
                if str(error.status()).endswith("UNAVAILABLE"):
                    raise
                return 0  # it is not loaded
            statistics = [entry.get("inference_stats", {}) for entry in answer.get("model_stats", [])]
            return sum(int(one.get(kind, {}).get("count", 0)) for one in statistics for kind in ("success", "fail"))

        return self._ask(lambda client: [count(client, name) for name in names])

    def _ask(self, function: Callable[[triton.InferenceServerClient], _Result]) -> _Result:
        with _server_errors(self.url), triton_client(self.url) as client:
            return function(client)


@contextmanager
def _server_errors(url: str) -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        words = " ".join(str(error.message() or "no reason given").split())
        reason = words.partition(" At: ")[0].rstrip(" ;.")  # without a Python model's traceback, which is in the log
        if "restricted" in reason:  # such an error can have the status UNAVAILABLE, too
            raise ServerError(
                f"the server at {url} restricts who can load models ({reason}); set {ADMIN_VARIABLE} to its key, or "
                "give --admin-header"
            ) from error
        if str(error.status()).endswith("UNAVAILABLE"):
            raise ServerUnreachableError(f"no Triton server answers at {url} ({cause_of(error)})") from error
        raise ServerError(f"the server at {url} refused: {reason}") from error
