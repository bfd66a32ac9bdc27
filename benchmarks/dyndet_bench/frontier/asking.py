"""Asks several models of one server in turn, one request at a time, and times each answer.

A machine that shares its cores changes its speed within seconds. So for every image, all ways follow each other, in an
order that is drawn anew: a graph leaves threads and caches in a state that the next one finds. Every way has the same
images, so that a difference between two ways is a difference on the same images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from dynamicdet.aliases import FloatArray, UInt8Array
from dynamicdet.errors import ServerError
from dynamicdet.text import printable
from dyndet_client.errors import ServerUnreachableError

DETECTIONS = ("num_detections", "boxes", "scores", "classes")
ROUTED = (*DETECTIONS, "difficulty", "route")
_TYPES = {"FP32": np.float32, "INT32": np.int32}
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_TIMEOUT_S = 60.0
_WARM_UP = 3
_LONGEST_REASON = 1000

Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A model to ask; with a threshold it is a dynamic detector, and without one a static one."""

    model: str
    threshold: float | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a client that detects objects asks for."""
        return DETECTIONS if self.threshold is None else ROUTED


class Asker:
    """A connection to a server; a context manager. Raises ServerError if an answer is none."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        # Messages are encoded before the clock starts.
        self._send = self._channel.unary_unary(_METHOD, None, service_pb2.ModelInferResponse.FromString)

    def __enter__(self) -> Asker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def ask(self, way: Way, image: UInt8Array) -> tuple[Tensors, float]:
        """The outputs for a fitted image (H, W, 3), and the milliseconds until they were here."""
        message = _message(way, image)
        start = time.perf_counter_ns()
        try:
            response = self._send(message, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            reason = printable(str(error.details() or "no reason given").partition("\n")[0], limit=_LONGEST_REASON)
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise ServerUnreachableError(f"the server at {self.address} stopped answering: {reason}") from error
            raise ServerError(f"model {way.model!r} at {self.address} answered with an error: {reason}") from error
        took_ms = (time.perf_counter_ns() - start) / 1e6
        return self._tensors(way, response), took_ms

    def _tensors(self, way: Way, response: Any) -> Tensors:
        try:
            found = {
                output.name: np.frombuffer(raw, _TYPES[output.datatype]).reshape(tuple(output.shape)[1:])
                for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            }
            return {name: found[name] for name in way.outputs}
        except (KeyError, ValueError) as error:
            said = printable(error, limit=_LONGEST_REASON)
            raise ServerError(f"model {way.model!r} at {self.address} gave a malformed answer: {said}") from error


@dataclass(frozen=True, kw_only=True)
class Times:
    """What was measured."""

    latencies_ms: FloatArray
    """(rounds, ways, images)"""
    hard: FloatArray
    """share of the requests that detector 2 answered, (ways,); 0 for a static detector"""


def time_ways(
    asker: Asker,
    ways: Sequence[Way],
    images: Sequence[UInt8Array],
    *,
    rounds: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _done: None,
) -> Times:
    """Ask every way for every image in every round; `progress` is called with the number of finished images.

    Raises ServerError if detector 2 was due and did not answer: its time would be missing.
    """
    for way in ways:
        for image in images[:_WARM_UP]:
            asker.ask(way, image)
    latencies = np.empty((rounds, len(ways), len(images)))
    hard = np.zeros(len(ways))
    rng = np.random.default_rng(seed)
    for number in range(rounds):
        for place, image in enumerate(images):
            for which in rng.permutation(len(ways)):
                answer, latencies[number, which, place] = asker.ask(ways[which], image)
                hard[which] += _is_hard(ways[which], answer)
            progress(number * len(images) + place + 1)
    return Times(latencies_ms=latencies, hard=hard / (rounds * len(images)))


def _is_hard(way: Way, answer: Tensors) -> bool:
    if way.threshold is None:
        return False
    route = int(answer["route"].reshape(-1)[0])
    if route not in (1, 2):
        raise ServerError(
            f"model {way.model!r} gave route {route} at threshold {way.threshold:g}: detector 2 was due and did not "
            "answer, so its time cannot be measured; the server's log says why"
        )
    return route == 2


def _message(way: Way, image: UInt8Array) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=way.model)
    inputs: list[tuple[str, str, npt.NDArray[Any]]] = [("image", "UINT8", image[None])]
    if way.threshold is not None:
        inputs.append(("threshold", "FP32", np.array([[way.threshold]], np.float32)))
    for name, datatype, array in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    for name in way.outputs:
        request.outputs.add(name=name)
    encoded: bytes = request.SerializeToString()
    return encoded
