"""The overhead of the client SDK: its requests beside the same requests from Triton's own client, sent alternately."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from pydantic import BaseModel, ConfigDict, Field

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.errors import InputError, ServerError
from dynamicdet.images import read_image
from dynamicdet.letterbox import Fit
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.records import Positive
from dyndet_bench.measuring.attempts import Attempts, Missing, check_any
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.machine import Circumstances, circumstances
from dyndet_bench.measuring.served import ALL_EASY, Served, server_errors
from dyndet_client import AsyncDetector, Detector, SharedMemoryError, TransportChoice
from dyndet_client.codec import OUTPUTS
from dyndet_client.transport import triton_client

_Send = Callable[[UInt8Array], float]
"""Sends one letterboxed image and returns the time in milliseconds."""

_WAIT_S, _WIRE_S = 60.0, 660.0
"""own deadline of a raw call, and that on the wire: cancelled calls can end a tritonserver before release 25.06"""
_RAW, _SDK, _SHARED = "raw", "sdk", "shared memory"


@dataclass(frozen=True)
class _Row:
    """A round: each client's times of the images, in their order."""

    times_ms: dict[str, list[Positive]]


class SdkTimes(BaseModel):
    """The SDK beside Triton's client, one request at a time. Times are medians over rounds of each round's median."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw_ms: float = Field(description="tritonclient over gRPC: make inputs, infer, read all outputs")
    sdk_ms: float = Field(description="detect() on the same letterboxed array, up to the finished detections")
    ratio: float = Field(description="SDK over raw: median of the rounds' ratios, each a median over the images")
    ratio_low: float = Field(description="smallest ratio of a round")
    ratio_high: float = Field(description="largest ratio of a round")


class SdkOverheadRecord(BaseModel):
    """Result of `measure_sdk_overhead`. Every request is easy, the shortest kind, so the overhead shows most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 2
    model: str
    bundle_sha256: str | None = Field(description="bundle of the served model, by its configuration")
    topology: str
    image_bytes: int = Field(description="size of one letterboxed image")
    network: SdkTimes = Field(description='Detector(transport="network")')
    network_async: SdkTimes = Field(description="AsyncDetector beside Triton's asyncio client")
    shared_memory: SdkTimes | None = Field(description="shared memory beside raw over the network; None: not available")
    shared_memory_async: SdkTimes | None
    read_ms: float = Field(description="median time to decode and letterbox an image file; in no ratio")
    images: int
    rounds: int = Field(description="rounds that could be measured")
    missing: tuple[Missing, ...] = Field(default=(), description="rounds that failed twice, and why")
    replayed: Replayed | None = Field(default=None, description="rounds of earlier runs of the same command")
    circumstances: Circumstances


def measure_sdk_overhead(
    url: str,
    *,
    model: str = "dyndet",
    images: Path,
    rounds: int = 5,
    max_images: int = 40,
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> SdkOverheadRecord:
    """Send each image of a folder with every client, one after the other, `rounds` times, one request at a time.

    `url` is a server's gRPC address; shared memory is measured if the server runs on this machine.

    With `journals`, each round is stored, and those of an earlier run are used. A round that fails twice is in the
    record's `missing`. Raises ServerError if no round could be measured; InputError.
    """
    if rounds < 1 or max_images < 1:
        raise InputError(f"rounds and max_images must be at least 1, got {rounds} and {max_images}")
    with Served(url, model) as served:
        served.warm_up()
        versions, identity = served.versions(), served.identity()
        fit, address = served.detector.fit, served.address
    chosen = spread(pictures_in(images), max_images)
    fitted, read_ms = _read(chosen, fit)
    with ExitStack() as stack:
        senders = _senders(stack, address, model)
        for send in senders.values():
            send(fitted[0])
        sent = hashlib.sha256(b"".join(pixels.tobytes() for pixels in fitted)).hexdigest()
        depends_on = {"bench": "client", "server": identity, "images": sent, "clients": list(senders)}
        attempts = Attempts(None if journals is None else journals.open(depends_on, _Row))
        found: list[_Row] = []

        def is_whole(row: _Row) -> bool:
            return row.times_ms.keys() == senders.keys() and {*map(len, row.times_ms.values())} == {len(fitted)}

        for number in range(rounds):
            progress("send with each client", number, rounds)
            entry = attempts.measure(
                {"round": number}, lambda: _round(senders, fitted), what=f"round {number + 1}", accept=is_whole
            )
            found += [] if entry is None else [entry.measured]
        progress("send with each client", rounds, rounds)
    check_any(attempts.missing, len(found))
    times = {name: [row.times_ms[name] for row in found] for name in senders}
    return SdkOverheadRecord(
        model=model,
        bundle_sha256=served.bundle_sha256,
        topology=served.topology,
        image_bytes=fitted[0].nbytes,
        network=_compare(times, _RAW, _SDK),
        network_async=_compare(times, f"async {_RAW}", f"async {_SDK}"),
        shared_memory=_compare(times, _RAW, _SHARED) if _SHARED in times else None,
        shared_memory_async=_compare(times, f"async {_RAW}", f"async {_SHARED}") if _SHARED in times else None,
        read_ms=float(np.median(read_ms)),
        images=len(fitted),
        rounds=len(found),
        missing=tuple(attempts.missing),
        replayed=attempts.replayed,
        circumstances=circumstances(**versions),
    )


def _read(files: Sequence[Path], fit: Fit) -> tuple[list[UInt8Array], list[float]]:
    fitted, times = [], []
    for file in files:
        started = time.perf_counter()
        fitted.append(fit(read_image(file)).image)
        times.append(1e3 * (time.perf_counter() - started))
    return fitted, times


def _round(senders: dict[str, _Send], fitted: Sequence[UInt8Array]) -> _Row:
    """Send each image with each client; the first client changes from image to image."""
    names = list(senders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number, pixels in enumerate(fitted):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(senders[name](pixels))
    return _Row(times)


def _senders(stack: ExitStack, address: str, model: str) -> dict[str, _Send]:
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    senders = {
        _RAW: _raw(stack, address, model),
        _SDK: _sdk(stack, address, model, "network"),
        f"async {_RAW}": _async_raw(stack, loop, address, model),
        f"async {_SDK}": _async_sdk(stack, loop, address, model, "network"),
    }
    try:
        senders[_SHARED] = _sdk(stack, address, model, "shared-memory")
        senders[f"async {_SHARED}"] = _async_sdk(stack, loop, address, model, "shared-memory")
    except SharedMemoryError:
        senders.pop(_SHARED, None)
    return senders


def _raw(stack: ExitStack, address: str, model: str) -> _Send:
    client = stack.enter_context(triton_client(address))

    def send(pixels: UInt8Array) -> float:
        started = time.perf_counter()
        inputs, outputs = _request(pixels)
        with server_errors(address, model):
            _read_outputs(client.infer(model, inputs, outputs=outputs, client_timeout=_WIRE_S))
        return 1e3 * (time.perf_counter() - started)

    return send


def _async_raw(stack: ExitStack, loop: asyncio.AbstractEventLoop, address: str, model: str) -> _Send:
    async def connect() -> triton_aio.InferenceServerClient:
        return triton_aio.InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)])

    client = loop.run_until_complete(connect())
    stack.callback(lambda: _leave(loop, client.close()))

    async def send(pixels: UInt8Array) -> None:
        inputs, outputs = _request(pixels)
        with server_errors(address, model):
            _read_outputs(await client.infer(model, inputs, outputs=outputs, client_timeout=_WIRE_S))

    return _in_loop(loop, send)


def _sdk(stack: ExitStack, address: str, model: str, transport: TransportChoice) -> _Send:
    detector = stack.enter_context(Detector(address, model, transport=transport))

    def send(pixels: UInt8Array) -> float:
        started = time.perf_counter()
        detector.detect(pixels, threshold=ALL_EASY)
        return 1e3 * (time.perf_counter() - started)

    return send


def _async_sdk(
    stack: ExitStack, loop: asyncio.AbstractEventLoop, address: str, model: str, transport: TransportChoice
) -> _Send:
    detector = AsyncDetector(address, model, transport=transport)
    stack.callback(lambda: _leave(loop, detector.close()))
    loop.run_until_complete(detector.connect())

    async def send(pixels: UInt8Array) -> None:
        await detector.detect(pixels, threshold=ALL_EASY)

    return _in_loop(loop, send)


def _in_loop(loop: asyncio.AbstractEventLoop, send: Callable[[UInt8Array], Awaitable[None]]) -> _Send:
    """Measure the time inside the event loop; entering and leaving it does not count."""

    async def timed(pixels: UInt8Array) -> float:
        started = time.perf_counter()
        await send(pixels)
        return 1e3 * (time.perf_counter() - started)

    def one(pixels: UInt8Array) -> float:
        task = loop.create_task(timed(pixels))
        loop.run_until_complete(asyncio.wait({task}, timeout=_WAIT_S))
        if not task.done():
            raise ServerError(f"the server gave no answer within {_WAIT_S:g} s")
        return task.result()

    return one


def _leave(loop: asyncio.AbstractEventLoop, closing: Coroutine[Any, Any, None]) -> None:
    """Close a connection once its call was answered, for which it waits a bounded time."""
    if tasks := asyncio.all_tasks(loop):  # after Ctrl-C
        loop.run_until_complete(asyncio.wait(tasks, timeout=_WAIT_S))
    loop.run_until_complete(closing)


def _request(pixels: UInt8Array) -> tuple[list[triton.InferInput], list[triton.InferRequestedOutput]]:
    image = triton.InferInput("image", [1, *pixels.shape], "UINT8")
    image.set_data_from_numpy(pixels[None])
    threshold = triton.InferInput("threshold", [1, 1], "FP32")
    threshold.set_data_from_numpy(np.array([[ALL_EASY]], np.float32))
    return [image, threshold], [triton.InferRequestedOutput(name) for name in OUTPUTS]


def _read_outputs(result: triton.InferResult) -> list[npt.NDArray[np.generic]]:
    return [result.as_numpy(name) for name in OUTPUTS]


def _compare(times: dict[str, list[list[float]]], raw: str, sdk: str) -> SdkTimes:
    """Compare each request with the raw one for the same image and round, because other work then disturbs both."""
    before, after = np.array(times[raw]), np.array(times[sdk])  # (rounds, images), ms
    ratios = np.median(after / before, axis=1)
    return SdkTimes(
        raw_ms=float(np.median(np.median(before, axis=1))),
        sdk_ms=float(np.median(np.median(after, axis=1))),
        ratio=float(np.median(ratios)),
        ratio_low=float(ratios.min()),
        ratio_high=float(ratios.max()),
    )
