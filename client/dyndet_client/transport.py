"""Sends requests over gRPC with Triton's own client, and turns its exceptions into ours."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dynamicdet.errors import InputError, ServerError
from dyndet_client.codec import OUTPUTS, Request
from dyndet_client.errors import (
    BadRequestError,
    DeadlineExceededError,
    ModelNotReadyError,
    ServerUnreachableError,
)

DEFAULT_PORT = 8001
_REFUSED = ("INVALID_ARGUMENT", "OUT_OF_RANGE", "UNIMPLEMENTED", "FAILED_PRECONDITION", "ALREADY_EXISTS")


def parse_url(url: str) -> str:
    """`host:port` from `host`, `host:port` or `grpc://host:port`; the port is 8001 unless it is given.

    Raises InputError for another scheme and for what is no address.

    >>> parse_url("grpc://localhost"), parse_url("[::1]:9001")
    ('localhost:8001', '[::1]:9001')
    """
    scheme, separator, rest = url.strip().rpartition("://")
    if separator and scheme.lower() != "grpc":
        raise InputError(
            f"{url!r} asks for {scheme}, but the client speaks gRPC without TLS: give host:port or grpc://host:port "
            f"(Triton's gRPC port is {DEFAULT_PORT} unless it was changed)"
        )
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#\[\]@]+)(?::(\d{1,5}))?/?", rest)
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise InputError(f"{url!r} is no server address: give host:port, such as 127.0.0.1:{DEFAULT_PORT}")
    return f"{match[1]}:{port}"


class GrpcTransport:
    """A connection to one model of one server. Threads may share it. Nothing is sent before the first call."""

    def __init__(self, url: str, model: str) -> None:
        self.address = parse_url(url)
        self._model = model
        options: list[tuple[str, int]] = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if re.match(r"localhost:|127\.|\[::1\]", self.address):
            options.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine's own loopback
        self._client = triton.InferenceServerClient(self.address, channel_args=options)

    def model_config(self, timeout_s: float) -> dict[str, Any]:
        """The model's configuration as JSON. Raises ServerUnreachableError or ModelNotReadyError."""
        try:
            self._client.is_server_live(client_timeout=timeout_s)
        except InferenceServerException as error:
            raise ServerUnreachableError(
                f"no Triton server answers at {self.address} ({_cause(error)}); "
                f"give its gRPC port (Triton's default is {DEFAULT_PORT}), or start one with `dyndet serve`"
            ) from error
        try:
            ready = self._client.is_model_ready(self._model, client_timeout=timeout_s)
            if not ready:
                raise ModelNotReadyError(self._not_ready(timeout_s))
            answer = self._client.get_model_config(self._model, as_json=True, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise self._translate(error, timeout_s) from error
        config: dict[str, Any] = answer["config"]
        return config

    def infer(self, request: Request, timeout_s: float) -> dict[str, npt.NDArray[Any]]:
        """Send a request and wait for its output tensors. Raises a ServerError."""
        inputs = [_input(name, array) for name, array in request.tensors.items()]
        outputs = [triton.InferRequestedOutput(name) for name in OUTPUTS]
        try:
            result = self._client.infer(
                self._model,
                inputs,
                outputs=outputs,
                client_timeout=timeout_s,
                parameters=dict(request.parameters) or None,
            )
        except InferenceServerException as error:
            raise self._translate(error, timeout_s) from error
        tensors = {name: result.as_numpy(name) for name in OUTPUTS}
        return {name: array for name, array in tensors.items() if array is not None}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _not_ready(self, timeout_s: float) -> str:
        sentence = f"model {self._model!r} is not ready on the server at {self.address}"
        try:
            index = self._client.get_model_repository_index(as_json=True, client_timeout=timeout_s)
        except InferenceServerException:
            return sentence
        models = index.get("models", [])
        for model in models:
            if model["name"] == self._model:
                return f"{sentence}: {model.get('state', '')} {model.get('reason', '')}".rstrip(" :")
        names = sorted(model["name"] for model in models if model.get("state") == "READY")
        return f"the server at {self.address} has no model {self._model!r}; it serves {', '.join(names) or 'no model'}"

    def _translate(self, error: InferenceServerException, timeout_s: float) -> ServerError:
        status = str(error.status()).rpartition(".")[2]
        reason = _reason(error)
        if status == "DEADLINE_EXCEEDED":
            return DeadlineExceededError(f"no answer from {self.address} within {timeout_s:g} s")
        if status == "NOT_FOUND" or re.search(r"unknown model|is not (found|ready)|no available versions", reason):
            return ModelNotReadyError(f"model {self._model!r} is not ready on the server at {self.address}: {reason}")
        if status == "UNAVAILABLE":
            return ServerUnreachableError(f"the server at {self.address} does not answer any more ({_cause(error)})")
        if status in _REFUSED:
            return BadRequestError(f"the server refused the request: {reason}")
        return ServerError(f"model {self._model!r} at {self.address} failed: {reason}")


def _input(name: str, array: npt.NDArray[Any]) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor


def _reason(error: InferenceServerException) -> str:
    """The part of Triton's message that says what happened: its last `message:`, first line, no closing full stop."""
    text = str(error.message() or "no reason given").rpartition("message: ")[2]
    return text.strip().partition("\n")[0].strip().rstrip(".")


def _cause(error: InferenceServerException) -> str:
    """The innermost cause in gRPC's message: `Connection refused`, `Domain name not found`."""
    return _reason(error).rpartition(": ")[2].rstrip("]")
