"""Exports a static checkpoint: one ONNX graph from a picture to boxes, and what other tools need to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import onnx

from dynamicdet.aliases import Progress, silent
from dynamicdet.files import check_creatable, check_replaceable, scratch_folder, whole_folder
from dynamicdet.letterbox import Fit
from dynamicdet.networks.checkpoints import load_static
from dynamicdet.networks.info import info
from dynamicdet.pictures import pictures_in, spread
from dyndet_builder.bundle.export import TOOLS, check_options, letterboxed, stage_of, suppression
from dyndet_builder.bundle.graphs import OPSET, Exporter, export_static_graph
from dyndet_builder.bundle.manifest import Precision, Source, file_sha256
from dyndet_builder.bundle.parity import BARS, check_parity, measure_static_parity
from dyndet_builder.bundle.sessions import run_session, session_of
from dyndet_builder.bundle.spec import DetectorSpec, InputSpec, OutputSpec, Role
from dyndet_builder.bundle.stages import at_precision
from dyndet_builder.bundle.static import FILE_NAME, StaticExport
from dyndet_builder.defaults import PARITY_IMAGES
from dyndet_builder.detectors.spec_file import ENDING, write_spec

_ROLES: Mapping[Role, str] = {
    "count": "num_detections",
    "boxes": "boxes",
    "scores": "scores",
    "labels": "classes",
}


def export_static(
    checkpoint: Path,
    output: Path,
    *,
    images: Path,
    precision: Precision = "fp32",
    name: str = "dyndet",
    max_detections: int | None = None,
    parity_images: int = PARITY_IMAGES,
    exporter: Exporter | None = None,
    progress: Progress = silent,
) -> StaticExport:
    """Export a static checkpoint to the folder `output`, which appears whole or not at all.

    The graph takes and gives what the stages of a bundle take and give: uint8 pictures, and boxes after the same
    suppression. It is compared with the network on `images`, as a bundle's are. Beside it is a `detector.yaml`, so the
    file is also one for `dyndet pair` and `dyndet export --small --large`.

    `max_detections` is by default 100. Raises InputError if options, images or the output folder cannot be used,
    CheckpointError if the checkpoint cannot be loaded or is not static, ParityError if the graph differs too much from
    the network.
    """
    check_options(name, precision, max_detections, parity_images)
    check_replaceable(output, FILE_NAME)
    check_creatable(output.parent)
    pictures = spread(pictures_in(images), parity_images)
    progress("load checkpoint", 0, 1)
    network = load_static(checkpoint)
    nms, fit = suppression(network, max_detections), Fit.square(network.input_size)
    gflops = info(checkpoint).easy_gflops
    progress("load checkpoint", 1, 1)
    for _ in letterboxed(pictures, fit):
        pass  # an unreadable image raises its error now, before the export
    progress("export the graph", 0, 1)
    graph, used = export_static_graph(at_precision(network, precision), nms, exporter=exporter)
    progress("export the graph", 1, 1)
    with whole_folder(output, marker=FILE_NAME) as folder, scratch_folder("export") as probes:
        file = folder / f"{network.spec.name}.onnx"  # a pair names its detectors by their files
        onnx.save(graph.model, file)
        onnx.save(graph.probe, probes / file.name)
        session = session_of(probes / file.name, frugal=True)
        parity = measure_static_parity(
            network,
            lambda batch: run_session(session, {"image": batch}, name="the graph"),
            letterboxed(pictures, fit),
            nms=nms,
            bars=BARS[precision],
            report=lambda done: progress("compare with the network", done, len(pictures)),
        )
        check_parity(parity, BARS[precision], precision)
        described = StaticExport(
            name=name,
            architecture=network.spec.name,
            input_size=network.input_size,
            class_names=network.class_names,
            precision=precision,
            opset=OPSET,
            exporter=used,
            graph=stage_of(file, graph.model),
            nms=nms,
            source=Source(checkpoint=checkpoint.name, sha256=file_sha256(checkpoint)),
            tool_versions={tool: metadata.version(tool) for tool in TOOLS},
            parity=parity,
            gflops=gflops,
        )
        write_spec(spec_of(described), file.with_suffix(ENDING))
        (folder / FILE_NAME).write_text(described.model_dump_json(indent=2) + "\n")
    return described


def spec_of(described: StaticExport) -> DetectorSpec:
    """The graph as a detector of others, for a pair."""
    (image,) = described.graph.inputs
    fit = described.fit
    return DetectorSpec(
        input=InputSpec(
            name=image.name,
            dtype="uint8",
            layout="NHWC",
            size=(fit.height, fit.width),
            batch="dynamic",
            divide_by=1,
            resize=fit.resize,
            place=fit.place,
            pad=fit.pad,
            filter=fit.filter,
        ),
        output=OutputSpec(family="counted", tensors=dict(_ROLES), suppress=False),
        class_names=described.class_names,
    )
