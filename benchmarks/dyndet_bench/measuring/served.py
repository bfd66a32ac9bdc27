"""Talks to the server under measurement: what it serves, its difficulties, and what its counters saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dynamicdet.aliases import FloatArray, UInt8Array
from dynamicdet.errors import DyndetError, ServerError
from dyndet_bench.measuring.own_metrics import OwnMetrics, default_metrics_url
from dyndet_client.codec import ServedModel, parse_model
from dyndet_client.errors import ServerUnreachableError
from dyndet_client.transport import GrpcTransport, parse_url, triton_client

ALL_EASY, ALL_HARD = 1.0, 0.0
"""Thresholds that send every image one way."""

STAGES = ("backbone1", "head1", "detector2")
_TIMEOUT_S = 60.0
_COUNTED_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RouteCounts:
    """Images the server's own counters have seen since it started."""

    total: int
    hard: int

    def since(self, before: RouteCounts) -> RouteCounts:
        """What was counted between `before` and this."""
        return RouteCounts(total=self.total - before.total, hard=self.hard - before.hard)

    @property
    def easy_share(self) -> float:
        """Share of images that detector 2 did not see; NaN where nothing was counted."""
        return 1.0 - self.hard / self.total if self.total else float("nan")


@dataclass(frozen=True, kw_only=True)
class ServerTimes:
    """Time the server's own statistics have seen requests spend since it started, milliseconds added up."""

    requests: int = 0
    """to the public model"""
    inside_ms: float = 0.0
    """from arrival to answer"""
    queue_ms: float = 0.0
    """waiting for an instance: of the public model, and of the stages for its calls"""
    compute_ms: float = 0.0
    """in the stages' graphs"""

    def since(self, before: ServerTimes) -> ServerTimes:
        """What was spent between `before` and this."""
        return ServerTimes(
            requests=self.requests - before.requests,
            inside_ms=self.inside_ms - before.inside_ms,
            queue_ms=self.queue_ms - before.queue_ms,
            compute_ms=self.compute_ms - before.compute_ms,
        )


class Served:
    """A connection to one served detector; a context manager.

    A detector of the topology `fused` has no stage models for Triton to count; what it counts itself is read from
    `metrics_url`, by default Triton's metrics port 8002 on the same host.

    Raises a ServerError when nothing answers at `url` or the model is not one of ours.
    """

    def __init__(self, url: str, model: str = "dyndet", *, metrics_url: str | None = None) -> None:
        self.address = parse_url(url)
        transport = GrpcTransport(url, model)
        try:
            self._config = transport.model_config(_TIMEOUT_S)
            self.detector: ServedModel = parse_model(self._config)
        finally:
            transport.close()
        self.name = self.detector.name
        self.topology: str = self._parameter("dyndet_topology") or "bls"
        where = default_metrics_url(self.address) if metrics_url is None else metrics_url
        self.metrics = OwnMetrics(where, self.name)
        self._client = triton_client(url)

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def infer(
        self, image: UInt8Array, *, threshold: float | None, outputs: Iterable[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """One request: `image` (S, S, 3) uint8, letterboxed. Only the named outputs are sent back."""
        inputs = [triton.InferInput("image", [1, *image.shape], "UINT8")]
        inputs[0].set_data_from_numpy(image[None])
        if threshold is not None:
            inputs.append(triton.InferInput("threshold", [1, 1], "FP32"))
            inputs[1].set_data_from_numpy(np.array([[threshold]], np.float32))
        names = list(outputs)
        with _server_errors(self.address, self.name):
            result = self._client.infer(
                self.name,
                inputs,
                outputs=[triton.InferRequestedOutput(name) for name in names],
                client_timeout=_TIMEOUT_S,
            )
        return {name: result.as_numpy(name)[0] for name in names}

    def difficulties(self, images: Iterable[UInt8Array], progress: Callable[[], None] | None = None) -> FloatArray:
        """Difficulty of each letterboxed image as the server computes it, all on the faster easy route."""
        found = []
        for image in images:
            answer = self.infer(image, threshold=ALL_EASY, outputs=("difficulty",))
            found.append(float(answer["difficulty"].reshape(-1)[0]))
            if progress is not None:
                progress()
        return np.array(found, np.float64)

    def warm_up(self, rounds: int = 3) -> None:
        """Send a few images down both routes, so that the first real request is not slower than the others."""
        side = self.detector.input_size
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        for _ in range(rounds):
            for threshold in (ALL_EASY, ALL_HARD):
                self.infer(image, threshold=threshold, outputs=("num_detections",))

    def counts(self) -> RouteCounts:
        """Images answered, and images that reached detector 2: Triton's counters, or of a fused detector its own."""
        total = self._inference_count(self.name)
        if self.topology == "fused":
            routed = self.metrics.routed(images=total)
            return RouteCounts(total=total, hard=int(routed["hard"]))
        return RouteCounts(total=total, hard=self._inference_count(f"{self.name}_detector2"))

    def counts_after(self, before: RouteCounts, images: int) -> RouteCounts:
        """The counters as soon as they hold so many images more: a server answers a request before it counts it.

        Waits no longer than a second, then returns what is counted.
        """
        deadline = time.monotonic() + _COUNTED_S
        while (counts := self.counts()).since(before).total < images and time.monotonic() < deadline:
            time.sleep(0.005)
        return counts

    def times(self) -> ServerTimes:
        """The server's own statistics of the public model and the stages behind it."""
        public = self._times(self.name)
        if self.topology == "fused":
            self.metrics.routed(images=self._inference_count(self.name))
            return replace(public, compute_ms=1e3 * sum(self.metrics.read("dyndet_stage_seconds_total").values()))
        stages = [self._times(f"{self.name}_{stage}") for stage in STAGES]
        return ServerTimes(
            requests=public.requests,
            inside_ms=public.inside_ms,
            queue_ms=public.queue_ms + sum(stage.queue_ms for stage in stages),
            compute_ms=sum(stage.compute_ms for stage in stages),
        )

    def versions(self) -> dict[str, str]:
        """Version of the server."""
        with _server_errors(self.address, self.name):
            metadata = self._client.get_server_metadata(as_json=True)
        return {str(metadata.get("name", "server")): str(metadata.get("version", "unknown"))}

    @property
    def max_batch(self) -> int:
        """Images that one request may hold."""
        return int(self._config.get("max_batch_size", 1))

    @property
    def bundle_sha256(self) -> str | None:
        """Of the bundle that the served model says it was rendered from."""
        return self._parameter("dyndet_bundle_sha256")

    def identity(self) -> dict[str, object]:
        """What makes this server the same as another: host, versions, and the configuration of the detector's models.

        Not the port: a server that is started for a build gets another one each time.
        """
        stages = () if self.topology == "fused" else tuple(f"{self.name}_{stage}" for stage in STAGES)
        with _server_errors(self.address, self.name):  # servers may keep their index of models from us
            configs = {name: self._client.get_model_config(name, as_json=True) for name in (self.name, *stages)}
        return {"host": self.address.rpartition(":")[0], **self.versions(), "models": configs}

    def _parameter(self, name: str) -> str | None:
        found = self._config.get("parameters", {}).get(name, {}).get("string_value")
        return str(found) if found else None

    def _inference_count(self, model: str) -> int:
        return sum(int(entry.get("inference_count", 0)) for entry in self._statistics(model))

    def _times(self, model: str) -> ServerTimes:
        entries = [entry.get("inference_stats", {}) for entry in self._statistics(model)]

        def spent_ms(*names: str) -> float:
            return sum(int(entry.get(name, {}).get("ns", 0)) for entry in entries for name in names) / 1e6

        return ServerTimes(
            requests=sum(int(entry.get("success", {}).get("count", 0)) for entry in entries),
            inside_ms=spent_ms("success"),
            queue_ms=spent_ms("queue"),
            compute_ms=spent_ms("compute_input", "compute_infer", "compute_output"),
        )

    def _statistics(self, model: str) -> list[dict[str, Any]]:
        with _server_errors(self.address, model):
            answer = self._client.get_inference_statistics(model, as_json=True)
        return list(answer.get("model_stats", []))


def served_detectors(url: str) -> list[str]:
    """Names of the dyndet detectors that are ready on this server."""
    with _server_errors(parse_url(url), "repository index"), triton_client(url) as client:
        index = client.get_model_repository_index(as_json=True)
        ready = [model["name"] for model in index.get("models", []) if model.get("state") == "READY"]
        configs = [client.get_model_config(name, as_json=True)["config"] for name in ready]
    names = []
    for config in configs:
        with suppress(DyndetError):
            names.append(parse_model(config).name)
    return names


@contextmanager
def _server_errors(address: str, model: str) -> Iterator[None]:
    """Turn the client's exceptions into a ServerError of one sentence."""
    try:
        yield
    except InferenceServerException as error:
        status = str(error.status()).rpartition(".")[2]
        reason = str(error.message() or "no reason given").strip().partition("\n")[0]
        if status == "UNAVAILABLE":
            raise ServerUnreachableError(f"the server at {address} stopped answering: {reason}") from error
        raise ServerError(f"model {model!r} at {address} answered with an error: {reason}") from error
