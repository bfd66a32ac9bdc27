"""Exports two detectors of others as the bundle of a pair: merged graphs, the router inside detector 1, evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.errors import InputError
from dynamicdet.files import check_creatable, check_replaceable, whole_folder
from dynamicdet.images import read_image
from dynamicdet.letterbox import Fit
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.text import printable
from dyndet_builder.bundle.export import check_model, stage_of
from dyndet_builder.bundle.graph_files import STANDARD
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import (
    OWN,
    AdapterCheck,
    Bundle,
    Detector,
    Nms,
    Picture,
    Precision,
    Resizing,
    Router,
    Source,
    Stage,
    StageName,
    file_sha256,
)
from dyndet_builder.bundle.precision import precision_in
from dyndet_builder.defaults import PAIR_IMAGES
from dyndet_builder.detectors.check import check_adapter
from dyndet_builder.detectors.runner import DetectorRunner
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.classes import ClassPolicy
from dyndet_builder.pairing.loading import Common, Described, common_classes, describe
from dyndet_builder.pairing.measuring import Found, router_cost
from dyndet_builder.pairing.payoff.mixes import Mixes
from dyndet_builder.pairing.preparing import PairOptions, check_found, latencies_of, pictures_of
from dyndet_builder.pairing.router.graph import attach
from dyndet_builder.pairing.router.scores import with_table
from dyndet_builder.pairing.running import Running, answers_of_all
from dyndet_builder.pairing.truth import mixed_precision

_TOOLS = ("dyndet", "onnx", "onnxruntime")
_LAYOUT = "uint8 HWC RGB, fitted as `picture` says"
_LOWEST: tuple[Precision, ...] = ("int8", "fp16", "fp32")


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """Two detectors, and what they are made a pair with; see `export_pair`."""

    small: Path
    large: Path
    small_spec: Path | None = None
    large_spec: Path | None = None
    classes: ClassPolicy = "same"
    data: Path | None = None
    trust_pictures: bool = False
    latencies: Mapping[str, float] | None = None
    """milliseconds where the pair will run"""
    cache: Path | None = None

    def described(self) -> tuple[Described, ...]:
        """Both detectors with their specs. Raises InputError as `describe` does."""
        return describe(self.small, self.large, (), specs=(self.small_spec, self.large_spec))


def export_pair(
    small: Path,
    large: Path,
    output: Path,
    *,
    images: Path,
    data: Path | None = None,
    trust_pictures: bool = False,
    latencies: Mapping[str, float] | None = None,
    small_spec: Path | None = None,
    large_spec: Path | None = None,
    name: str = "dyndet",
    max_detections: int = 100,
    classes: ClassPolicy = "same",
    checked_images: int = PAIR_IMAGES,
    cache: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Bundle:
    """Export two ONNX detectors to the folder `output`, which appears whole or not at all; a bundle there is replaced.

    The router and the scores are fitted on the COCO data set `data`, or else on the folder `images`, where the large
    detector's answers stand for labels. At most `checked_images` of `images` prove that the merged graphs answer as the
    detectors' own files. `small_spec` and `large_spec` are their `detector.yaml`; None: what `inspect` finds. The
    folder `cache` stores answers, so that another export runs only what is new. `latencies` are those of another
    machine, milliseconds of `small` and `large`, for a pair whose order is another there; None: they are measured here.

    Raises InputError for options, files and pictures that cannot be used, for different classes, and for detectors that
    are swapped, or of which the large one is no better; ParityError if a graph answers otherwise than its file.
    """
    check_model(name, max_detections)
    if checked_images < 1:
        raise InputError(f"the comparison with the detectors' files needs at least one image, not {checked_images}")
    check_replaceable(output, BUNDLE_FILE)
    check_creatable(output.parent)
    checked = spread(pictures_in(images), checked_images)
    options = PairOptions(
        images=None if data is not None else images,
        data=data,
        trust_pictures=trust_pictures,
        latencies=latencies,
        specs=(small_spec, large_spec),
        classes=classes,
        cache=cache,
        seed=seed,
    )
    progress("read the detectors", 0, 1)
    pair = describe(small, large, (), specs=options.specs)
    common = common_classes(pair, classes)
    nms = Nms(max_detections=max_detections)
    progress("read the detectors", 1, 1)
    found, resizing = _measured(pair, common, nms, options, progress)

    progress("write the graphs", 0, 1)
    fit = pair[1].fit
    graphs = _graphs(pair, common, found, nms)
    cost = router_cost(pair[0], common.numbers[0], found, found.truth.paths)
    with whole_folder(output, marker=BUNDLE_FILE) as folder:
        for stage, model in graphs.items():
            onnx.save(model, folder / f"{stage}.onnx")
        progress("write the graphs", 1, 1)
        checks = _checks(pair, common, found, nms, graphs, checked, progress)
        stages = {
            stage: _stage(folder / f"{stage}.onnx", model, pair, common, found, stage, checks[stage])
            for stage, model in graphs.items()
        }
        bundle = Bundle(
            kind="pair",
            name=name,
            input_size=max(fit.height, fit.width),
            layout=_LAYOUT,
            picture=None if fit.is_own else Picture(**asdict(fit)),
            class_names=common.names,
            precision=min((stage.precision or "fp32" for stage in stages.values()), key=_LOWEST.index),
            opset=_opset(graphs["detector2"]),
            stages=stages,
            nms=nms,
            tool_versions={tool: metadata.version(tool) for tool in _TOOLS},
            router=_router(found, cost),
            resizing=resizing,
        )
        (folder / BUNDLE_FILE).write_text(bundle.model_dump_json(indent=2) + "\n")
    return bundle


def _measured(
    pair: Sequence[Described], common: Common, nms: Nms, options: PairOptions, progress: Progress
) -> tuple[Found, Resizing | None]:
    """The router and the score tables, fitted on what the public model's stages answer, and the cost of resizing."""
    small, large = pair
    labels, pictures, _ = pictures_of(options, common, progress)
    fits = (large.fit, large.fit) if small.fit == large.fit else (large.fit, large.fit, small.fit)
    ready = [
        Running(runner=DetectorRunner(one.graph(numbers, fit=fit, nms=nms), file=one.file), fit=fit)
        for one, numbers, fit in zip((*pair, small), (*common.numbers, common.numbers[0]), fits, strict=False)
    ]
    latencies_of(pair, ready, pictures, options, progress)
    answers = answers_of_all(ready, pictures, cache=options.cache, progress=progress)
    check_found(pair, answers, len(pictures))
    progress("fit the router", 0, 1)
    found = Found.of(pair, answers[:2], labels, pictures, common, seed=options.seed)
    _check_gain(pair, found)
    resizing = None if len(answers) < 3 else _resizing(found, answers[2])
    progress("fit the router", 1, 1)
    return found, resizing


def _check_gain(pair: Sequence[Described], found: Found) -> None:
    """Raise InputError if labels show that the large detector is no better than the small one."""
    pictures = len(found.truth)
    easy, hard = (found.mixes.ap(np.full(pictures, hard)) for hard in (False, True))
    if found.truth.by_labels and not hard > easy:
        raise InputError(
            f"the large detector, {printable(pair[1].file)}, is slower than {printable(pair[0].file)} and no better: "
            f"AP {hard:.1f} against {easy:.1f} on {pictures} pictures, so no picture is worth sending to it"
        )


def _resizing(found: Found, own: Answers) -> Resizing:
    own = with_table(own, found.calibration.tables[0])
    alone = Mixes(mixed_precision(found.truth, own, found.large).classes, pictures=len(own))
    none = np.zeros(len(own), np.bool_)
    return Resizing(own=alone.ap(none), public=found.mixes.ap(none), images=len(own), by_labels=found.truth.by_labels)


def _graphs(pair: Sequence[Described], common: Common, found: Found, nms: Nms) -> dict[StageName, onnx.ModelProto]:
    """The graph of each stage, with calibrated scores."""
    (small, large), tables = pair, found.calibration.tables

    def first(fit: Fit) -> onnx.ModelProto:
        return attach(small.graph(common.numbers[0], fit=fit, calibration=tables[0], nms=nms), found.router)

    graphs: dict[StageName, onnx.ModelProto] = {"detector1": first(large.fit)}
    if small.fit != large.fit:
        graphs[OWN] = first(small.fit)
    graphs["detector2"] = large.graph(common.numbers[1], calibration=tables[1], nms=nms)
    return graphs


def _checks(
    pair: Sequence[Described],
    common: Common,
    found: Found,
    nms: Nms,
    graphs: dict[StageName, onnx.ModelProto],
    pictures: Sequence[Path],
    progress: Progress,
) -> dict[StageName, AdapterCheck]:
    """Compare each detector's graph with its file, on pictures fitted by its own rule.

    Where the public model resizes pictures for detector 1, the graph without resizing stands for both; `Resizing` tells
    the rest.
    """
    own: StageName = OWN if OWN in graphs else "detector1"
    checks: dict[StageName, AdapterCheck] = {}
    stages: tuple[StageName, ...] = (own, "detector2")
    for number, (one, stage) in enumerate(zip(pair, stages, strict=True)):
        progress("compare with the files", number, len(stages))
        checks[stage] = check_adapter(
            graphs[stage],
            one.file,
            one.spec,
            _pictures(pictures),
            fit=one.fit,
            nms=nms,
            classes=common.numbers[number],
            calibration=found.calibration.tables[number],
        )
    progress("compare with the files", len(stages), len(stages))
    return {**checks, "detector1": checks[own]}


def _pictures(paths: Sequence[Path]) -> Iterator[UInt8Array]:
    return (read_image(path) for path in paths)


def _stage(
    file: Path,
    model: onnx.ModelProto,
    pair: Sequence[Described],
    common: Common,
    found: Found,
    name: StageName,
    check: AdapterCheck,
) -> Stage:
    number = int(name == "detector2")
    one = pair[number]
    detector = Detector(
        spec=one.spec,
        source=Source(checkpoint=one.file.name, sha256=file_sha256(one.file)),
        classes=common.numbers[number],
        calibration=found.calibration.tables[number],
        check=check,
    )
    described = {
        "opset": _opset(model),
        "batch": one.spec.input.batch,
        "detector": detector,
        "precision": precision_in(model),
    }
    return stage_of(file, model).model_copy(update=described)


def _opset(model: onnx.ModelProto) -> int:
    return max(int(one.version) for one in model.opset_import if one.domain in STANDARD)


def _router(found: Found, cost: float) -> Router:
    return Router(
        kind=found.router.kind.replace(" ", "_"),
        images=found.router.images,
        by_labels=found.router.by_labels,
        kept_gain={f"{float(share):g}": gain for share, gain in found.router.kept_gain.items()},
        cost=cost,
    )
