"""A connection to the detector under measurement: its configuration, its difficulties and its server's counters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dynamicdet.aliases import FloatArray, UInt8Array
from dynamicdet.errors import DyndetError, ServerError
from dynamicdet.records import NAME
from dynamicdet.text import printable
from dyndet_bench.measuring.counters import (
    KIND_PARAMETER,
    PAIR,
    RouteCounts,
    ServerCounters,
    ServerTimes,
    stage_models,
)
from dyndet_bench.measuring.own_metrics import OwnMetrics, default_metrics_url
from dyndet_bench.measuring.workload import Workload
from dyndet_client.codec import ServedModel, parse_model, threshold_of
from dyndet_client.errors import ServerUnreachableError
from dyndet_client.transport import GrpcTransport, parse_url, triton_client

ALL_EASY, ALL_HARD = 1.0, 0.0
"""Thresholds that send every image down one route."""

BoolArray = npt.NDArray[np.bool_]
_HARD = 2
"""value of the output `route`"""

_TIMEOUT_S = 60.0
_LONGEST_NAME, _LONGEST_REASON = 100, 1000
"""characters of what a server says; the rest is cut"""


class Served:
    """A connection to one served detector; a context manager.

    A detector of the topology `fused` has no stage models for Triton to count. Its own counters are read from
    `metrics_url`, by default Triton's metrics port 8002 on the same host. One of the topology `graph` counts no routes
    at all: `hard_images` asks for them.

    Raises a ServerError if nothing answers at `url` or the model is not a dyndet detector.
    """

    def __init__(self, url: str, model: str = "dyndet", *, metrics_url: str | None = None) -> None:
        self._transport = GrpcTransport(url, model)
        self.address = self._transport.address
        try:
            self._config = self._transport.model_config(_TIMEOUT_S)
            self.detector: ServedModel = parse_model(self._config)
            self.name = self.detector.name
            self.topology: str = self._parameter("dyndet_topology") or "bls"
            where = default_metrics_url(self.address) if metrics_url is None else metrics_url
            self.metrics = OwnMetrics(where, self.name)
        except BaseException:
            self.close()
            raise
        own_metrics = self.metrics if self.topology == "fused" else None
        self._stages = {} if self.topology in ("fused", "graph") else stage_models(self._config)
        times_of = None if self.topology == "graph" else self.metrics
        self._counters = ServerCounters(
            self.name, self._statistics, own_metrics, stages=self._stages, times_of=times_of
        )
        self._hard: dict[tuple[str, float], BoolArray] = {}

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def infer(
        self,
        image: UInt8Array,
        *,
        threshold: float | None,
        outputs: Iterable[str],
        parameters: Mapping[str, bool | str] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """One request: `image` (H, W, 3) uint8, fitted. Only the named outputs are sent back."""
        inputs = [triton.InferInput("image", [1, *image.shape], "UINT8")]
        inputs[0].set_data_from_numpy(image[None])
        if (threshold := self.sent_threshold(threshold)) is not None:
            inputs.append(triton.InferInput("threshold", [1, 1], "FP32"))
            inputs[1].set_data_from_numpy(np.array([[threshold]], np.float32))
        names = list(outputs)
        requested = [triton.InferRequestedOutput(name) for name in names]
        more = {} if parameters is None else {"parameters": dict(parameters)}
        result = self._ask("infer", self.name, model_name=self.name, inputs=inputs, outputs=requested, **more)
        arrays = {name: result.as_numpy(name) for name in names}
        lacking = [name for name, array in arrays.items() if array is None or not len(array)]
        if lacking:
            raise ServerError(f"model {self.name!r} at {self.address} answered without {lacking[0]}")
        return {name: array[0] for name, array in arrays.items()}

    def difficulties(self, images: Iterable[UInt8Array], progress: Callable[[], None] | None = None) -> FloatArray:
        """Difficulty of each fitted image as the server computes it, all on the faster easy route."""
        difficulties = []
        for image in images:
            answer = self.infer(image, threshold=ALL_EASY, outputs=("difficulty",))
            found = answer["difficulty"].reshape(-1)
            if found.dtype.kind != "f" or found.size != 1 or not (np.isnan(found[0]) or 0 <= found[0] <= 1):
                said = printable(found, limit=_LONGEST_NAME)
                raise ServerError(f"model {self.name!r} at {self.address} gave {said} as a difficulty, not 0 to 1")
            difficulties.append(float(found[0]))
            if progress is not None:
                progress()
        return np.array(difficulties, np.float64)

    def sent_threshold(self, threshold: float | None) -> float | None:
        """What a request must bring: None leaves it to the server, but one graph knows no operating points."""
        return threshold_of(self.detector, None) if threshold is None else threshold

    def hard_images(self, workload: Workload, threshold: float | None) -> BoolArray | None:
        """Which images of a workload are hard at a threshold, (images,), by the output `route`.

        Each is asked for once. None if the server counts routes itself.
        """
        if self.topology != "graph":
            return None
        asked = self.sent_threshold(threshold)
        assert asked is not None
        key = (workload.sha256, asked)
        if key not in self._hard:
            found = [
                self.infer(image, threshold=asked, outputs=("route",))["route"].item() for image in workload.images
            ]
            self._hard[key] = np.array(found) == _HARD
        return self._hard[key]

    def warm_up(self, rounds: int = 3) -> None:
        """Send a few images down both routes, so that the first real request is not slower than the others."""
        image = np.random.default_rng(0).integers(0, 256, self.detector.fit.shape, dtype=np.uint8)
        for _ in range(rounds):
            for threshold in (ALL_EASY, ALL_HARD):
                self.infer(image, threshold=threshold, outputs=("num_detections",))

    def counts(self) -> RouteCounts:
        """Images answered, and images that reached detector 2; see `ServerCounters`."""
        return self._counters.counts()

    def counts_after(self, before: RouteCounts, images: int) -> RouteCounts:
        """The counters, as soon as they have grown by `images`; see `ServerCounters`."""
        return self._counters.counts_after(before, images)

    def times(self) -> ServerTimes:
        """Time spent in the public model and in the stages behind it; see `ServerCounters`."""
        return self._counters.times()

    def versions(self) -> dict[str, str]:
        """Version of the server."""
        metadata = self._ask("get_server_metadata", self.name, as_json=True)
        name, version = (str(metadata.get(key, "")) for key in ("name", "version"))
        known = re.fullmatch(NAME, name) is not None and len(name) <= _LONGEST_NAME and name != "perf_analyzer"
        return {name if known else "server": printable(version or "unknown", limit=_LONGEST_NAME)}

    @property
    def max_batch(self) -> int:
        """Images that one request may hold."""
        return int(self._config.get("max_batch_size", 1))

    @property
    def bundle_sha256(self) -> str | None:
        """Of the bundle that the model was rendered from, by its configuration."""
        found = self._parameter("dyndet_bundle_sha256")
        return found if found is not None and re.fullmatch("[0-9a-f]{64}", found) else None

    def is_pair(self) -> bool:
        """Whether it is a pair, by its stages or its rule of fitting; in `fused`, by the stages that it counts.

        Raises ServerError if the metrics of a fused detector cannot be read.
        """
        if "detector1" in self._stages or not self.detector.fit.is_own or self._parameter(KIND_PARAMETER) == PAIR:
            return True
        return self.topology == "fused" and "detector1" in self.metrics.read("dyndet_stage_seconds_total")

    def identity(self) -> dict[str, object]:
        """What identifies this server: host, versions, and the configuration of the detector's models.

        The port is not included: a server that is started for a build gets another one each time.
        """
        configs = {  # of each model by its name: a server may refuse to list its models
            name: self._ask("get_model_config", name, model_name=name, as_json=True)
            for name in (self.name, *self._stages.values())
        }
        return {"host": self.address.rpartition(":")[0], **self.versions(), "models": configs}

    def _parameter(self, name: str) -> str | None:
        value = self._config.get("parameters", {}).get(name, {}).get("string_value")
        return str(value) if value else None

    def _statistics(self, model: str) -> list[dict[str, Any]]:
        answer = self._ask("get_inference_statistics", model, model_name=model, as_json=True)
        return list(answer.get("model_stats", []))

    def _ask(self, method: str, model: str, **arguments: Any) -> Any:
        """The server's answer to a call of Triton's client about a model."""
        with server_errors(self.address, model):
            return self._transport.ask(method, _TIMEOUT_S, **arguments)


def served_detectors(url: str, *, headers: Mapping[str, str] | None = None) -> list[str]:
    """Names of the dyndet detectors that are ready on this server; `headers` open its list of models."""
    with server_errors(parse_url(url), "repository index"), triton_client(url) as client:
        index = client.get_model_repository_index(headers=headers, as_json=True)
        ready = [model["name"] for model in index.get("models", []) if model.get("state") == "READY"]
        configs = [client.get_model_config(name, as_json=True)["config"] for name in ready]
    names = []
    for config in configs:
        with suppress(DyndetError):
            names.append(parse_model(config).name)
    return names


@contextmanager
def server_errors(address: str, model: str) -> Iterator[None]:
    """Turn the client's exceptions into a ServerError of one sentence."""
    try:
        yield
    except InferenceServerException as error:
        status = str(error.status()).rpartition(".")[2]
        reason = printable(str(error.message() or "no reason given").strip().partition("\n")[0], limit=_LONGEST_REASON)
        if status == "UNAVAILABLE":
            raise ServerUnreachableError(f"the server at {address} stopped answering: {reason}") from error
        raise ServerError(f"model {model!r} at {address} answered with an error: {reason}") from error
