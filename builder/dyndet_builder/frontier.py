"""Serves a dynamic detector and static ones on one server, and measures what routing is worth beside them.

Accuracy is that of the server's own answers, matched by pycocotools. Latency is that of one request at a time, each
image through every way in turn. Both are measured on the same images, so a bootstrap draws images once for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dynamicdet.aliases import BoolArray, Float32Array, FloatArray, Progress, silent
from dynamicdet.datasets.dataset import CocoDataset, in_class_order, read_dataset
from dynamicdet.errors import InputError
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.files import scratch_folder
from dynamicdet.pictures import spread
from dynamicdet.routing.routes import check_classes, in_original
from dynamicdet.suppression import Detections
from dynamicdet.text import printable
from dynamicdet.thresholds import is_hard, threshold_for_easy_share
from dyndet_bench.frontier.along import Measured, compare, compare_on_average
from dyndet_bench.frontier.asking import Asker, Tensors, Times, Way, time_ways
from dyndet_bench.frontier.record import (
    HARD_SHARES,
    Comparison,
    DynamicPoint,
    FrontierRecord,
    Interval,
    Latency,
    StaticPoint,
)
from dyndet_bench.measuring.machine import circumstances
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import Bundle, file_sha256, read_bundle
from dyndet_builder.bundle.static import StaticExport, read_static
from dyndet_builder.pairing.payoff.mixes import Mixes, bootstrap_weights
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.repository.static import render_static
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.static_export import export_static

_DRAWS = 400
_RANDOM_DRAWS = 10
_PARITY_IMAGES = 12
_MODEL = "dynamic"


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """The data set, and how often each image counts in each draw of the bootstrap, (R, N)."""

    data: CocoDataset
    counts: Float32Array
    timed: Sequence[int]
    """numbers of the images that are timed"""


def measure_frontier(
    bundle: Path,
    statics: Sequence[Path],
    *,
    data: Path,
    images: Path | None = None,
    options: RenderOptions | None = None,
    hard_shares: Sequence[float] = HARD_SHARES,
    rounds: int = 3,
    max_images: int = 100,
    promise_ms: float | None = None,
    draws: int = _DRAWS,
    seed: int = 0,
    progress: Progress = silent,
) -> FrontierRecord:
    """Measure a bundle at several thresholds, and static detectors, all on one embedded server.

    `statics` are checkpoints, or folders that `dyndet export` made of them. `data` is a COCO data set, `images` the
    folder of its images if it has another. All of them give AP; at most `max_images`, spread over them, are timed in
    each of the rounds. `options` are those of the dynamic detector; the static ones get its backend, instances and
    threads.

    Raises InputError if data or detectors do not fit together; CheckpointError, ParityError, ServerError.
    """
    if rounds < 1 or max_images < 2 or draws < 0 or not all(0 <= share <= 1 for share in hard_shares):
        raise InputError(
            "rounds must be at least 1, max_images at least 2, draws at least 0 and hard shares from 0 to 1, got "
            f"{rounds}, {max_images}, {draws} and {', '.join(f'{share:g}' for share in hard_shares)}"
        )
    if not statics:
        raise InputError("name at least one static detector; two or three make a line to compare with")
    described, options = read_bundle(bundle), options or RenderOptions(topology="fused")
    topology = options.topology
    if topology == "graph":
        raise InputError("the frontier is measured with the topology bls or fused, not with graph")
    data_set = read_dataset(data, described.fit, images=images, split="valid", progress=progress)
    check_classes("the bundle", described.class_names, data_set.class_names, data)
    data_set = in_class_order(data_set, described.class_names)
    timed = spread(range(len(data_set)), max_images)
    truth = _Truth(data=data_set, counts=bootstrap_weights(len(data_set), resamples=draws, seed=seed), timed=timed)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("frontier"))
        exported = {
            f"static{number}": _exported(static, described, folder / f"export{number}", data_set, progress)
            for number, static in enumerate(statics, 1)
        }
        render(bundle, folder / "dynamic", replace(options, name=_MODEL))
        for name, export in exported.items():
            render_static(export, folder / "static", name, options)
        extra = (f"--model-repository={folder / 'static'}",)
        server = stack.enter_context(TritonServer(folder / "dynamic", ServerOptions(extra_arguments=extra)))
        served = stack.enter_context(Served(server.grpc_url, _MODEL))
        asker = stack.enter_context(Asker(served.address))
        answers = _answers(asker, exported, truth, progress)
        thresholds = _thresholds(answers.difficulties, hard_shares)
        ways = [*(Way(model=_MODEL, threshold=one) for one in thresholds), *(Way(model=name) for name in exported)]
        times = time_ways(
            asker,
            ways,
            [np.ascontiguousarray(data_set.images[index]) for index in timed],
            rounds=rounds,
            seed=seed,
            progress=lambda done: progress("time every way", done, rounds * len(timed)),
        )
        versions = served.versions()
        shown = dict(zip(exported, _labels(statics), strict=True))
        found = _Found(
            bundle=described,
            statics=[(shown[name], read_static(export)) for name, export in exported.items()],
            truth=truth,
            answers=answers,
            thresholds=thresholds,
            times=times,
            random_seed=seed,
        )
    progress("compare", 0, 1)
    dynamic, static, on_average = found.points()
    progress("compare", 1, 1)
    return FrontierRecord(
        model=described.name,
        architecture=described.architecture,
        topology=topology,
        bundle_sha256=file_sha256(bundle / BUNDLE_FILE),
        data="/".join(data.resolve().parts[-2:]),
        images=len(data_set),
        timed_images=len(timed),
        rounds=rounds,
        draws=draws,
        dynamic=dynamic,
        static=static,
        on_average=on_average,
        promise_ms=promise_ms,
        circumstances=circumstances(**versions),
    )


def _labels(statics: Sequence[Path]) -> list[str]:
    """The names of the files, without their endings; with numbers if two are the same."""
    names = [printable(one.stem if one.is_file() else one.name, limit=60) for one in statics]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]


def _exported(static: Path, bundle: Bundle, folder: Path, data: CocoDataset, progress: Progress) -> Path:
    """The folder of an exported static detector that answers the same question as the bundle."""
    if not static.is_dir():
        rows = bundle.nms.max_detections
        export_static(
            static,
            folder,
            images=data.image_folder,
            max_detections=rows,
            parity_images=_PARITY_IMAGES,
            progress=lambda step, done, of: progress(f"{static.stem}: {step}", done, of),
        )
        static = folder
    described = read_static(static)
    check_classes(f"the static detector {printable(static)}", described.class_names, bundle.class_names, data.folder)
    if described.class_names != bundle.class_names or described.fit != bundle.fit:
        raise InputError(
            f"the static detector {printable(static)} has its classes in another order than the bundle, or reads "
            f"images of {described.fit} instead of {bundle.fit}; train it on the same data at the same size"
        )
    return static


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What the server found in every image, boxes in pixels of the images as they are."""

    easy: Sequence[Detections]
    hard: Sequence[Detections]
    difficulties: FloatArray
    static: Mapping[str, Sequence[Detections]]


def _answers(asker: Asker, statics: Iterable[str], truth: _Truth, progress: Progress) -> _Answers:
    """Every image through both routes and every static detector, once."""
    data = truth.data
    ways = {"easy": Way(model=_MODEL, threshold=ALL_EASY), "hard": Way(model=_MODEL, threshold=ALL_HARD)}
    ways |= {name: Way(model=name) for name in statics}
    found: dict[str, list[Detections]] = {name: [] for name in ways}
    difficulties = []
    for index in range(len(data)):
        image = np.ascontiguousarray(data.images[index])
        for name, way in ways.items():
            tensors, _ = asker.ask(way, image)
            found[name] += in_original(data, index, [_detections(tensors)])
            if name == "easy":
                difficulties.append(float(tensors["difficulty"].reshape(-1)[0]))
        progress("ask every way for AP", index + 1, len(data))
    easy, hard = found.pop("easy"), found.pop("hard")
    return _Answers(easy=easy, hard=hard, difficulties=np.array(difficulties, np.float64), static=found)


def _detections(tensors: Tensors) -> Detections:
    count = int(tensors["num_detections"].reshape(-1)[0])
    boxes, scores, classes = (torch.from_numpy(tensors[name][:count].copy()) for name in ("boxes", "scores", "classes"))
    return Detections(boxes, scores, classes)


def _thresholds(difficulties: FloatArray, hard_shares: Sequence[float]) -> list[float]:
    """Different thresholds, from all easy to all hard, which are always there."""
    inner = {threshold_for_easy_share(difficulties, 1 - share) for share in hard_shares if 0 < share < 1}
    return [ALL_EASY, *sorted(inner - {ALL_EASY, ALL_HARD}, reverse=True), ALL_HARD]


@dataclass(frozen=True, kw_only=True)
class _One:
    """The same detections on both routes' places: a static detector has one."""

    easy: Sequence[Detections]
    hard: Sequence[Detections]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """All that was measured, from which the points are made."""

    bundle: Bundle
    statics: Sequence[tuple[str, StaticExport]]
    truth: _Truth
    answers: _Answers
    thresholds: Sequence[float]
    times: Times
    random_seed: int

    def points(self) -> tuple[tuple[DynamicPoint, ...], tuple[StaticPoint, ...], Comparison]:
        """The dynamic detector's points, the static ones, and the mean comparison."""
        count = len(self.truth.data)
        own = MixedPrecision(self.answers, self.truth.data)
        mixes = Mixes(own.classes, pictures=count)
        routed = [is_hard(self.answers.difficulties, threshold) for threshold in self.thresholds]
        dynamic = [self._measured(mixes, hard, way) for way, hard in enumerate(routed)]
        nothing = [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))] * count
        static = []
        for way, found in enumerate(self.answers.static.values(), len(self.thresholds)):
            alone = MixedPrecision(_One(easy=found, hard=nothing), self.truth.data)
            none = np.zeros(count, np.bool_)
            static.append(self._measured(Mixes(alone.classes, pictures=count), none, way))
        rng = np.random.default_rng(self.random_seed)
        points = tuple(
            DynamicPoint(
                threshold=threshold,
                hard_share=float(hard.mean()),
                latency_ms=self._latency(one, way),
                ap=Interval.of(one.ap, one.ap_draws),
                random_ap=float(np.mean([own(rng.permutation(hard)).ap for _ in range(_RANDOM_DRAWS)])),
                beside=compare(one, static),
            )
            for way, (threshold, hard, one) in enumerate(zip(self.thresholds, routed, dynamic, strict=True))
        )
        others = [
            StaticPoint(
                name=name,
                architecture=export.architecture,
                gflops=export.gflops,
                checkpoint_sha256=export.source.sha256,
                latency_ms=self._latency(one, len(self.thresholds) + place),
                ap=Interval.of(one.ap, one.ap_draws),
            )
            for place, ((name, export), one) in enumerate(zip(self.statics, static, strict=True))
        ]
        others.sort(key=lambda point: point.latency_ms.mean.value)
        return points, tuple(others), compare_on_average(dynamic, static)

    def _measured(self, mixes: Mixes, hard: BoolArray, way: int) -> Measured:
        """One way, of all data and in every draw of images and rounds."""
        each = self.times.latencies_ms[:, way]  # (rounds, timed images)
        rng = np.random.default_rng(self.random_seed)  # the same rounds for every way
        counts = self.truth.counts.astype(np.float64)[:, list(self.truth.timed)]  # (R, timed images)
        rounds = rng.integers(len(each), size=(len(counts), len(each)))
        sums = np.einsum("ri,rki->r", counts, each[rounds])
        return Measured(
            ms=float(each.mean()),
            ap=mixes.ap(hard),
            ms_draws=sums / np.maximum(counts.sum(axis=1) * len(each), 1e-9),
            ap_draws=mixes.each_ap(hard, self.truth.counts) if len(counts) else np.empty(0),
        )

    def _latency(self, one: Measured, way: int) -> Latency:
        each = self.times.latencies_ms[:, way]
        p50, p99 = np.quantile(each, [0.5, 0.99], method="inverted_cdf")
        return Latency(mean=Interval.of(one.ms, one.ms_draws), p50=float(p50), p99=float(p99))
