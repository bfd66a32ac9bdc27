"""What masks cost a request: the same images asked for with masks and without, alternately, on both routes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from pydantic import BaseModel, ConfigDict, Field

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.errors import InputError
from dynamicdet.images import read_image
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.records import Positive
from dyndet_bench.measuring.attempts import Attempts, Missing, check_any
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.machine import Circumstances, circumstances
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served, server_errors
from dyndet_client import Detector
from dyndet_client.codec import OUTPUTS, OUTPUTS_WITH_MASKS, no_masks
from dyndet_client.transport import triton_client

_ROUTES = {"easy": ALL_EASY, "hard": ALL_HARD}
_WIRE_S = 660.0
"""deadline of a call on the wire: cancelled calls can end a tritonserver before release 25.06"""


@dataclass(frozen=True)
class _Row:
    """A round: times of the images in their order, by route, without masks and with them."""

    without_ms: dict[str, list[Positive]]
    with_ms: dict[str, list[Positive]]


class MaskCost(BaseModel):
    """Requests with masks beside the same ones without, one at a time, over the network of this machine.

    Times are medians over rounds of each round's median.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    without_ms: float = Field(description="detect() on a fitted array, up to the finished detections")
    with_ms: float = Field(description="the same with masks=True; no mask is looked at")
    ratio: float = Field(description="with over without: median of the rounds' ratios, each a median over the images")
    ratio_low: float = Field(description="smallest ratio of a round")
    ratio_high: float = Field(description="largest ratio of a round")
    without_bytes: int = Field(description="size of a gRPC answer")
    with_bytes: int = Field(description="size of a gRPC answer with masks")


class MaskCostRecord(BaseModel):
    """Result of `measure_mask_cost`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    model: str
    bundle_sha256: str | None = Field(description="bundle of the served model, by its configuration")
    topology: str
    image_bytes: int = Field(description="size of one fitted image, which each request sends")
    easy: MaskCost
    hard: MaskCost
    paste_ms: float | None = Field(description="median time to paste one mask into an original; None: no object")
    images: int
    rounds: int = Field(description="rounds that could be measured")
    missing: tuple[Missing, ...] = Field(default=(), description="rounds that failed twice, and why")
    replayed: Replayed | None = Field(default=None, description="rounds of earlier runs of the same command")
    circumstances: Circumstances


def measure_mask_cost(
    url: str,
    *,
    model: str = "dyndet",
    images: Path,
    rounds: int = 5,
    max_images: int = 40,
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> MaskCostRecord:
    """Ask for each image of a folder with and without masks on both routes, `rounds` times, one request at a time.

    `url` is a server's gRPC address. With `journals`, each round is stored, and those of an earlier run are used. A
    round that fails twice is in the record's `missing`. Raises NoMasksError if the model has no masks, ServerError
    if no round could be measured; InputError.
    """
    if rounds < 1 or max_images < 1:
        raise InputError(f"rounds and max_images must be at least 1, got {rounds} and {max_images}")
    with Served(url, model) as served:
        if not served.detector.has_masks:
            raise no_masks(model)
        served.warm_up()
        versions, identity = served.versions(), served.identity()
        fit, address = served.detector.fit, served.address
    files = spread(pictures_in(images), max_images)
    fitted = [fit(read_image(file)).image for file in files]
    sent = hashlib.sha256(b"".join(pixels.tobytes() for pixels in fitted)).hexdigest()
    attempts = Attempts(
        None if journals is None else journals.open({"bench": "masks", "server": identity, "images": sent}, _Row)
    )
    with Detector(address, model, transport="network") as detector:
        for threshold in _ROUTES.values():
            detector.detect(fitted[0], threshold=threshold, masks=True)
        found: list[_Row] = []
        for number in range(rounds):
            progress("ask with and without masks", number, rounds)
            entry = attempts.measure(
                {"round": number}, lambda: _round(detector, fitted), what=f"round {number + 1}", accept=_is_whole
            )
            found += [] if entry is None else [entry.measured]
        progress("ask with and without masks", rounds, rounds)
        check_any(attempts.missing, len(found))
        paste_ms = _paste_ms(detector, files)
    costs = {
        route: _compare(found, route, *(_answer_bytes(address, model, fitted[0], threshold)))
        for route, threshold in _ROUTES.items()
    }
    return MaskCostRecord(
        model=model,
        bundle_sha256=served.bundle_sha256,
        topology=served.topology,
        image_bytes=fitted[0].nbytes,
        easy=costs["easy"],
        hard=costs["hard"],
        paste_ms=paste_ms,
        images=len(fitted),
        rounds=len(found),
        missing=tuple(attempts.missing),
        replayed=attempts.replayed,
        circumstances=circumstances(**versions),
    )


def _is_whole(row: _Row) -> bool:
    times = (row.without_ms, row.with_ms)
    counts = {len(found) for each in times for found in each.values()}
    return all(each.keys() == _ROUTES.keys() for each in times) and len(counts) == 1


def _round(detector: Detector, fitted: Sequence[UInt8Array]) -> _Row:
    """Each image four times: which kind of request comes first changes from image to image."""
    row = _Row({route: [] for route in _ROUTES}, {route: [] for route in _ROUTES})
    for number, pixels in enumerate(fitted):
        for route, threshold in _ROUTES.items():
            for masks in (number % 2 == 0, number % 2 == 1):
                started = time.perf_counter()
                detector.detect(pixels, threshold=threshold, masks=masks)
                (row.with_ms if masks else row.without_ms)[route].append(1e3 * (time.perf_counter() - started))
    return row


def _compare(rows: Sequence[_Row], route: str, without_bytes: int, with_bytes: int) -> MaskCost:
    """Compare each request with the other one for the same image and round, because other work disturbs both."""
    plain = np.array([row.without_ms[route] for row in rows])  # (rounds, images), ms
    masks = np.array([row.with_ms[route] for row in rows])
    ratios = np.median(masks / plain, axis=1)
    return MaskCost(
        without_ms=float(np.median(np.median(plain, axis=1))),
        with_ms=float(np.median(np.median(masks, axis=1))),
        ratio=float(np.median(ratios)),
        ratio_low=float(ratios.min()),
        ratio_high=float(ratios.max()),
        without_bytes=without_bytes,
        with_bytes=with_bytes,
    )


def _answer_bytes(address: str, model: str, pixels: UInt8Array, threshold: float) -> tuple[int, int]:
    """Sizes of gRPC's messages with the answer to an image, without masks and with them."""
    image = triton.InferInput("image", [1, *pixels.shape], "UINT8")
    image.set_data_from_numpy(pixels[None])
    forced = triton.InferInput("threshold", [1, 1], "FP32")
    forced.set_data_from_numpy(np.array([[threshold]], np.float32))
    with ExitStack() as stack:
        client = stack.enter_context(triton_client(address))
        stack.enter_context(server_errors(address, model))
        plain, masks = (
            client.infer(
                model,
                [image, forced],
                outputs=[triton.InferRequestedOutput(name) for name in outputs],
                client_timeout=_WIRE_S,
            )
            .get_response()
            .ByteSize()
            for outputs in (OUTPUTS, OUTPUTS_WITH_MASKS)
        )
    return plain, masks


def _paste_ms(detector: Detector, files: Sequence[Path]) -> float | None:
    """The time to paste one mask into its picture."""
    times: list[float] = []
    for file in files:
        found = detector.detect(file, threshold=ALL_HARD, masks=True, min_score=0.0)
        assert found.masks is not None
        started = time.perf_counter()
        pasted = sum(1 for _ in found.masks)
        times += [1e3 * (time.perf_counter() - started) / pasted] if pasted else []
    return float(np.median(times)) if times else None
