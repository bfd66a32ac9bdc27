"""Triton's two protocols without input or output: what is called, how answers are unwrapped, what errors mean."""

from __future__ import annotations

import importlib
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dynamicdet.text import printable
from dyndet_client.address import DEFAULT_PORTS, Protocol
from dyndet_client.codec import DEADLINE, OUTPUTS, Request
from dyndet_client.codes import CODES, split_code
from dyndet_client.errors import (
    AccessDeniedError,
    BadRequestError,
    DeadlineExceededError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
    UnknownOperatingPointError,
)
from dyndet_client.retrying import Deadline

_SENT, _CLOCK = "dyndet_sent", secrets.token_hex(8)
_REFUSED = ("INVALID_ARGUMENT", "OUT_OF_RANGE", "UNIMPLEMENTED", "FAILED_PRECONDITION", "ALREADY_EXISTS")
_HTTP_STATUS = {
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "NOT_FOUND",
    "409": "ALREADY_EXISTS",
    "413": "OUT_OF_RANGE",
    "499": "CANCELLED",
    "501": "UNIMPLEMENTED",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "UNAVAILABLE",
}
_REFUSAL = "the server refused the request: {reason}"
_SENTENCES: Mapping[type[ServerError], str] = {
    AccessDeniedError: "the server at {address} denies access: {reason}",
    ModelNotReadyError: "model {model!r} is not ready on the server at {address}: {reason}",
    OverloadedError: "the server at {address} is overloaded: {reason}",
    ServerUnreachableError: "the server at {address} takes no requests now ({cause})",
    BadRequestError: _REFUSAL,
    UnknownOperatingPointError: _REFUSAL,
    ServerError: "model {model!r} at {address} failed: {reason}",
}


@dataclass(frozen=True)
class Call:
    """One call of a method of Triton's client; `tritonclient.grpc`, `.grpc.aio` and `.http.aio` name them alike."""

    method: str
    arguments: Mapping[str, Any]
    timeout_s: float
    """how long the caller waits"""
    may_cancel: bool = False
    """whether the server is known to survive calls that are cancelled over gRPC"""
    ended: Callable[[], object] = lambda: None
    """called once when the server is done with the call, also if nobody waited that long"""
    is_last: bool = False
    """whether the call takes leave of the server"""


_NO_PLACE = "NO_PLACE"


def no_place(abandoned: int) -> InferenceServerException:
    """A call was not sent, because the server has not ended too many calls that were given up."""
    reason = f"not sent, because the server still works on {abandoned} requests that this client has given up"
    return InferenceServerException(reason, status=_NO_PLACE)


@dataclass(frozen=True)
class Slot:
    """A place in a registered region of shared memory that holds an input."""

    region: str
    offset: int
    byte_size: int


@dataclass(frozen=True)
class Dialect:
    """What differs between Triton's gRPC and HTTP clients."""

    protocol: Protocol
    title: str
    module: str
    """where `InferInput` and `InferRequestedOutput` are"""
    json: Mapping[str, Any] = field(default_factory=dict)
    """arguments that ask for plain dictionaries"""

    @property
    def hint(self) -> str:
        """What to try when nothing answers."""
        return (
            f"give its {self.title} port (Triton's default is {DEFAULT_PORTS[self.protocol]}), "
            "or start one with `dyndet serve`"
        )

    def infer_arguments(
        self, model: str, request: Request, slot: Slot | None, left_s: float, use_s: float | None = None
    ) -> dict[str, Any]:
        """Arguments of `infer`; with a slot, the image is not sent but lies there.

        The server learns how long the client still waits, and when the request was sent by a clock of this process:
        Triton does not tell a model how long a request has waited in its queue. So it computes nothing for nobody.
        `use_s` is how long the answer is of use: the server decides by it what it has time for.
        """
        inputs = []
        for name, array in request.tensors.items():
            tensor = self._types.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            if name == "image" and slot is not None:
                tensor.set_shared_memory(slot.region, slot.byte_size, slot.offset)
            else:
                tensor.set_data_from_numpy(np.ascontiguousarray(array))
            inputs.append(tensor)
        wanted = self._outputs if request.outputs is OUTPUTS else self._wanted(request.outputs)
        arguments: dict[str, Any] = {"model_name": model, "inputs": inputs, "outputs": wanted}
        arguments["timeout"] = max(1, int(1e6 * left_s))  # microseconds
        arguments["parameters"] = {**request.parameters, _SENT: f"{_CLOCK}:{time.monotonic_ns() // 1000}"}
        if use_s is not None:  # as text: Triton passes no decimals on to a model that another model calls
            arguments["parameters"][DEADLINE] = f"{max(1e3 * use_s, 0.001):.3f}"
        if request.request_id:
            arguments["request_id"] = request.request_id
        return arguments

    def tensors(self, answer: Any, names: Sequence[str] = OUTPUTS) -> dict[str, npt.NDArray[Any]]:
        """The outputs in the answer to `infer`."""
        found = {name: answer.as_numpy(name) for name in names}
        return {name: array for name, array in found.items() if array is not None}

    def config(self, answer: Any) -> dict[str, Any]:
        """The model's configuration in the answer to `get_model_config`."""
        return dict(answer.get("config", answer))

    def models(self, answer: Any) -> list[dict[str, Any]]:
        """The entries in the answer to `get_model_repository_index`."""
        return list(answer.get("models", ()) if isinstance(answer, dict) else answer)

    def regions(self, answer: Any) -> dict[str, str]:
        """Name and key of each region in the answer to `get_system_shared_memory_status`."""
        entries = answer.get("regions", {}).values() if isinstance(answer, dict) else answer
        return {str(entry.get("name", "")): str(entry.get("key", "")) for entry in entries}

    @cached_property
    def _types(self) -> Any:
        return importlib.import_module(self.module)

    @cached_property
    def _outputs(self) -> list[Any]:
        return self._wanted(OUTPUTS)

    def _wanted(self, names: Sequence[str]) -> list[Any]:
        return [self._types.InferRequestedOutput(name) for name in names]


DIALECTS: dict[Protocol, Dialect] = {
    "grpc": Dialect("grpc", "gRPC", "tritonclient.grpc", json={"as_json": True}),
    "http": Dialect("http", "HTTP", "tritonclient.http"),
}


def status_of(error: InferenceServerException) -> str:
    """The error's kind by gRPC's name for it, also for HTTP."""
    status = str(error.status()).rpartition(".")[2]
    return _HTTP_STATUS.get(status, status)


_LONGEST_REASON = 1000


def code_and_reason_of(error: InferenceServerException) -> tuple[str, str]:
    """A detector's code, empty where Triton itself speaks, and what happened: one line without a closing full stop.

    Control characters are shown as escapes: the text comes from another machine and may reach a terminal. A text that
    nobody would read to its end is cut.
    """
    code, sentence = split_code(str(error.message() or ""))
    line = sentence.strip().partition("\n")[0].strip().rstrip(".") or "no reason given"
    if len(line) > _LONGEST_REASON:
        line = f"{line[:_LONGEST_REASON]} ... ({len(line):,} characters)"
    return code, printable(line)


def reason_of(error: InferenceServerException) -> str:
    """What happened, without a detector's code."""
    return code_and_reason_of(error)[1]


_REQUEST_ID = re.compile(r"^\[request id: .*?\] ")
"""What Triton puts before some of its texts."""
_STOPPING, _IS_STOPPING = re.compile(r"Server is stopping|Server not ready"), "the server is stopping"


def cause_of(error: InferenceServerException) -> str:
    """The innermost cause in gRPC's message: `Connection refused`, `Domain name not found`."""
    text = _REQUEST_ID.sub("", reason_of(error))
    if _STOPPING.search(text):
        return _IS_STOPPING
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "TLS handshake failed: the port speaks no TLS"
    handshake = re.search(r"handshake failed.*OPENSSL_internal:(\w+)", text)
    if handshake:
        return f"TLS handshake failed: {handshake[1]}"
    of_aiohttp = re.search(r"Cannot connect to host \S+ ssl:\S+ \[(.*)\]$", text)
    if of_aiohttp and of_aiohttp[1] == "None":
        return "TLS handshake failed: the server closed the connection, as a port without TLS does"
    return (of_aiohttp[1] if of_aiohttp else text.rstrip("]")).rpartition(": ")[2] or text


_SURVIVES_CANCELLING = (2, 59)
"""Triton 25.06; the fixes are #7840 (24.12), #8078 (25.04) and #8220 (25.06) in its repository `server`."""


def survives_cancelling(version: str) -> bool:
    """Whether a server of this version survives cancelled gRPC calls; False where the version cannot be read.

    >>> survives_cancelling("2.51.0"), survives_cancelling("2.59.0"), survives_cancelling("")
    (False, True, False)
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _SURVIVES_CANCELLING


def lacks_output(error: InferenceServerException) -> bool:
    """Whether the server says that the model has no such output."""
    return "unexpected inference output" in str(error.message())


def lost_region(error: InferenceServerException) -> bool:
    """Whether the server says that it knows no such shared memory, for instance because it was started anew."""
    return "Unable to find shared memory region" in str(error.message())


def translate(
    error: InferenceServerException, *, model: str, address: object, deadline: Deadline, was_served: bool = False
) -> ServerError:
    """Our error for one of Triton's client: by the code of a detector's own error, else by what Triton says.

    A model that was served on this connection before, and is gone now, means a server that is stopping.
    """
    status, (code, reason) = status_of(error), code_and_reason_of(error)
    if status == _NO_PLACE:
        return deadline.exceeded(address, reason)
    if status == "DEADLINE_EXCEEDED":
        return deadline.exceeded(address)
    if status == "CANCELLED":
        return ServerError(f"the request to {address} was cancelled ({reason})")
    kind = CODES.get(code) or _kind(status, reason, coded=bool(code))
    cause = cause_of(error)
    if was_served and not code and _GOING.search(reason):
        kind, cause = ServerUnreachableError, _IS_STOPPING
    if kind is DeadlineExceededError or _REJECTED_LATE in reason:
        return deadline.rejected(address)
    sentence = _SENTENCES[kind].format(model=model, address=address, reason=reason, cause=cause)
    if kind is OverloadedError:
        return OverloadedError(sentence, retry_after_s=_wait_named_in(reason))
    return kind(sentence)


def _wait_named_in(reason: str) -> float | None:
    """Seconds; None where a server names no wait, or one that nobody would keep."""
    named = re.search(r"try again in (\d{1,7}) ms$", reason)
    return None if named is None else int(named[1]) / 1000


_REJECTED_LATE = "Request timeout expired"
"""What Triton says of a request that waited longer in its queue than it allowed; a BLS model may pass it on."""

_GOING = re.compile(r"has no available versions|is not at ready state|Server not ready", re.IGNORECASE)
"""What Triton says while it stops, as NOT_FOUND or UNAVAILABLE."""


def _kind(status: str, reason: str, *, coded: bool) -> type[ServerError]:
    """What an error without a code means, or one whose code this client does not know."""
    usual = BadRequestError if status in _REFUSED else ServerError
    if coded:
        return usual
    if status in ("UNAUTHENTICATED", "PERMISSION_DENIED") or " is restricted, expecting header" in reason:
        return AccessDeniedError
    if status == "NOT_FOUND" or re.search(r"unknown model|is not (found|ready)|no available versions", reason):
        return ModelNotReadyError
    return ServerUnreachableError if status == "UNAVAILABLE" else usual
