"""Exports a checkpoint as a bundle: three ONNX graphs that are proven to match the network on real images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import onnx

import dynamicdet
from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.errors import InputError
from dynamicdet.files import check_creatable, check_replaceable, scratch_folder, whole_folder
from dynamicdet.images import read_image
from dynamicdet.letterbox import Fit
from dynamicdet.networks.network import YoloNetwork
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.records import LONGEST_NAME
from dynamicdet.suppression import candidates_for
from dynamicdet.text import printable
from dyndet_builder.bundle.graph_files import DTYPES
from dyndet_builder.bundle.graphs import OPSET, Exporter, StageGraph, export_graphs
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import STAGES, Bundle, Nms, Precision, Source, Stage, StageName, Tensor, file_sha256
from dyndet_builder.bundle.parity import BARS, check_parity, measure_flips, measure_parity
from dyndet_builder.bundle.parts import Target
from dyndet_builder.bundle.runner import StageRunner
from dyndet_builder.bundle.stages import at_precision, rows_of
from dyndet_builder.bundle.two_stage import for_target, settings_of
from dyndet_builder.defaults import DETECTIONS, PARITY_IMAGES, PRECISIONS
from dyndet_builder.operating_points import read_operating_points

ROUTE_IMAGES = 200  # with fewer images, a single flip would exceed the limit of half precision
_MOST_DETECTIONS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TOOLS = ("dyndet", "torch", "onnx", "onnxruntime", "onnxscript", "onnxslim")


def export(
    checkpoint: Path,
    output: Path,
    *,
    images: Path,
    precision: Precision = "fp32",
    name: str = "dyndet",
    architecture: str | None = None,
    max_detections: int | None = None,
    target: Target | None = None,
    parity_images: int = PARITY_IMAGES,
    route_images: int | None = None,
    operating_points: Path | None = None,
    exporter: Exporter | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Export a checkpoint to the folder `output`, which appears whole or not at all; a bundle there is replaced.

    `images` is a folder of real images; at most `parity_images` of them, spread over the folder, prove that the graphs
    match the network. `max_detections` is by default that of the architecture, for most 100. `target` is what will run
    the graphs of a two-stage detector, by default ONNX Runtime; other graphs run in both. By default, `exporter` is
    torch's current one, or its older one if the current one fails.

    No route may flip (in half precision: at most one of 200 images). Flips are counted on `route_images` (half
    precision: 200 by default; otherwise the parity images), at the thresholds of `operating_points`, a file from a
    calibration, or else at the deciles.

    Raises InputError if options, images or the output folder cannot be used, CheckpointError if the checkpoint cannot
    be loaded, ParityError if a graph differs from the network by more than `parity.BARS` accepts.
    """
    check_options(name, precision, max_detections, parity_images)
    check_replaceable(output, BUNDLE_FILE)
    check_creatable(output.parent)
    pictures = spread(pictures_in(images), parity_images)
    thresholds = () if operating_points is None else _thresholds(operating_points)
    if route_images is None and (precision == "fp16" or thresholds):
        route_images = ROUTE_IMAGES
    progress("load checkpoint", 0, 1)
    network = dynamicdet.load(checkpoint, architecture)
    two_stage = None
    if isinstance(network, TwoStageDetector):
        nms, two_stage = settings_of(network, max_detections, target or "onnxruntime")
    else:
        nms = suppression(network, max_detections)
    fit = Fit.square(network.input_size)
    progress("load checkpoint", 1, 1)
    for _ in letterboxed(pictures, fit):
        pass  # an unreadable image raises its error now, before the export

    started: list[StageName] = []

    def on_stage(stage: StageName) -> None:
        progress("export graphs", len(started), len(STAGES))
        started.append(stage)

    prepared = at_precision(network, precision)
    if isinstance(prepared, TwoStageDetector) and two_stage is not None:
        prepared = for_target(prepared, two_stage.target)
    graphs, used = export_graphs(prepared, nms, exporter=exporter, report=on_stage)
    progress("export graphs", len(STAGES), len(STAGES))

    with whole_folder(output, marker=BUNDLE_FILE) as folder, scratch_folder("export") as probes:
        stages: dict[StageName, Stage] = {}
        for stage, graph in graphs.items():
            onnx.save(graph.model, folder / f"{stage}.onnx")
            stages[stage] = stage_of(folder / f"{stage}.onnx", graph.model)
        runner = _probe_runner(graphs, probes)
        del graphs
        progress("compare with the network", 0, len(pictures))
        parity = measure_parity(
            network,
            runner,
            letterboxed(pictures, fit),
            nms=nms,
            bars=BARS[precision],
            report=lambda done: progress("compare with the network", done, len(pictures)),
        )
        if route_images is not None:
            routed = spread(pictures_in(images), route_images)
            flips, counted = measure_flips(
                network,
                runner,
                letterboxed(routed, fit),
                thresholds=thresholds,
                tie=BARS[precision].tie,
                report=lambda done: progress("count flipped routes", done, len(routed)),
            )
            flipped = {"route_flip_share": flips, "route_images": counted, "route_thresholds": thresholds}
            parity = parity.model_copy(update=flipped)
        check_parity(parity, BARS[precision], precision)
        bundle = Bundle(
            name=name,
            architecture=network.spec.name,
            input_size=network.input_size,
            class_names=network.class_names,
            precision=precision,
            opset=OPSET,
            exporter=used,
            stages=stages,
            nms=nms,
            two_stage=two_stage,
            source=Source(checkpoint=checkpoint.name, sha256=file_sha256(checkpoint)),
            tool_versions={tool: metadata.version(tool) for tool in TOOLS},
            parity=parity,
        )
        (folder / BUNDLE_FILE).write_text(bundle.model_dump_json(indent=2) + "\n")
    return bundle


def check_options(name: str, precision: str, max_detections: int | None, parity_images: int) -> None:
    """Raise InputError for options that no export accepts."""
    check_model(name, max_detections)
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if parity_images < 1:
        raise InputError(f"the parity check needs at least one image, not {parity_images}")


def check_model(name: str, max_detections: int | None) -> None:
    """Raise InputError unless a bundle can have this name, and its graphs can return so many detections."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise InputError(
            f"{printable(name, limit=60)!r} cannot be the name of a model; use letters, digits, '_', '-' and '.', at "
            f"most {LONGEST_NAME}"
        )
    if max_detections is not None and not 1 <= max_detections <= _MOST_DETECTIONS:
        raise InputError(f"the number of detections must be from 1 to {_MOST_DETECTIONS}, not {max_detections}")


def _thresholds(file: Path) -> tuple[float, ...]:
    """The thresholds in a file of operating points, ascending."""
    return tuple(sorted({point.threshold for point in read_operating_points(file).points.values()}))


def letterboxed(pictures: list[Path], fit: Fit) -> Iterator[UInt8Array]:
    """Images as the graphs take them, (H, W, 3) each."""
    for path in pictures:
        yield fit(read_image(path)).image


def suppression(network: YoloNetwork, max_detections: int | None) -> Nms:
    """The settings of a network's graphs, by default for 100 detections; a small network gets a small top-k."""
    max_detections = DETECTIONS if max_detections is None else max_detections
    rows = rows_of(network)
    if max_detections > rows:
        raise InputError(f"a network of {rows} rows cannot return {max_detections} detections")
    wanted = candidates_for(network.input_size, max_detections)
    return Nms(max_detections=max_detections, pre_top_k=min(wanted, rows))


def stage_of(path: Path, model: onnx.ModelProto | None = None) -> Stage:
    """The description of a stage's file, which contains `model`."""
    model = model or onnx.load(path)
    return Stage(
        file=path.name,
        sha256=file_sha256(path),
        inputs=tuple(_tensor(value) for value in model.graph.input),
        outputs=tuple(_tensor(value) for value in model.graph.output),
    )


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value for dim in kind.shape.dim[1:])
    return Tensor.model_validate({"name": value.name, "dtype": DTYPES[kind.elem_type], "shape": shape})


def _probe_runner(graphs: dict[StageName, StageGraph], folder: Path) -> StageRunner:
    files = {stage: folder / f"{stage}.onnx" for stage in graphs}
    for stage, path in files.items():
        onnx.save(graphs[stage].probe, path)
    return StageRunner(files, frugal=True)
