"""Makes an int8 bundle from an fp32 one: explicit Q/DQ from a calibration set, and an honest account of the cost."""

from __future__ import annotations

from pathlib import Path

import onnx

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.files import whole_folder
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.text import printable
from dyndet_builder.bundle.export import letterboxed, stage_of
from dyndet_builder.bundle.manifest import (
    FILE_NAME,
    OWN,
    AveragePrecision,
    Bundle,
    Parity,
    Quantization,
    Stage,
    StageName,
    file_sha256,
)
from dyndet_builder.bundle.precision import precision_in
from dyndet_builder.bundle.runner import BundleRunner, StageRunner, Tensors
from dyndet_builder.defaults import CALIBRATION_IMAGES, COMPARED_IMAGES
from dyndet_builder.quantization.compare import FROM_SCORE, Differences, compare
from dyndet_builder.quantization.graph import CHUNK, PERCENTILE, Counts, quantize_graph

_LEAST_OPSET = 13


def quantize(
    bundle: Path,
    output: Path,
    *,
    images: Path,
    data: Path | None = None,
    trust_pictures: bool = False,
    calibration_images: int = CALIBRATION_IMAGES,
    compared_images: int = COMPARED_IMAGES,
    progress: Progress = silent,
) -> Bundle:
    """Write an int8 bundle to the folder `output`, which appears whole or not at all, and return its description.

    `images` is a folder of images like those that the detector will see. Some of them set the ranges of activations,
    others show the effect on boxes and difficulty. With `data`, a COCO data set as for `dyndet evaluate` (also
    `trust_pictures`), the average precision of both bundles is measured and stored in the new one.

    Raises InputError for a bundle that is not fp32, and for bad images and options.
    """
    runner = BundleRunner(bundle)
    described = runner.bundle
    _check_precision(bundle, described)
    if data is not None:
        from dyndet_builder.evaluation.evaluate import check_truth  # needs the extra `train`

        check_truth("the bundle", described.class_names, data, trust_pictures=trust_pictures, progress=progress)
    calibration, compared = _pictures(images, calibration_images, compared_images)
    fit = described.fit
    held_out = list(letterboxed(compared, fit))  # read now, so that a damaged one is found before the work
    with whole_folder(output, marker=FILE_NAME) as folder:
        known = _known(runner, calibration)
        stages: dict[StageName, Stage] = {}
        counts: list[Counts] = []
        for index, (name, stage) in enumerate(described.stages.items()):
            progress("quantize the graphs", index, len(described.stages))
            feeds = [{tensor.name: each[tensor.name] for tensor in stage.inputs} for each in known[name]]
            counts.append(quantize_graph(bundle / stage.file, folder / stage.file, feeds))
            stages[name] = _stage(stage, folder / stage.file)
            if (stages[name].inputs, stages[name].outputs) != (stage.inputs, stage.outputs):
                raise InputError(
                    f"quantization changed the inputs or outputs of {name}; use another version of ONNX Runtime"
                )
        progress("quantize the graphs", len(described.stages), len(described.stages))
        progress("compare with fp32", 0, 1)
        quantized = StageRunner({name: folder / stage.file for name, stage in stages.items()})
        found = compare(runner, quantized, held_out)
        progress("compare with fp32", 1, 1)
        result = described.model_copy(
            update={
                "precision": "int8",
                "stages": stages,
                "parity": _parity(found),
                "quantization": _account(found, counts, len(calibration), file_sha256(bundle / FILE_NAME)),
            }
        )
        (folder / FILE_NAME).write_text(result.model_dump_json(indent=2) + "\n")
        if data is not None:
            result = _with_precision(result, bundle, folder, data, trust_pictures, progress)
            (folder / FILE_NAME).write_text(result.model_dump_json(indent=2) + "\n")
    return result


def _check_precision(folder: Path, described: Bundle) -> None:
    """Raise InputError unless all stages are fp32, and their opset has int8 weights with a scale per channel."""
    for name, stage in described.stages.items():
        if (found := described.precision_of(name)) != "fp32":
            makers = " by the tools of its maker" if described.kind == "pair" else ""
            what = printable(folder) if described.kind == "dynamic" else f"{name} of {printable(folder)}"
            raise InputError(f"{what} is {found}{makers}; an int8 bundle is made from an fp32 bundle")
        if described.opset_of(name) < _LEAST_OPSET:
            raise InputError(
                f"{name} of {printable(folder)} has the opset {described.opset_of(name)}, and int8 needs at least "
                f"{_LEAST_OPSET}; quantize {printable(stage.file)} with the tools of its maker"
            )


def _known(runner: BundleRunner, pictures: list[Path]) -> dict[StageName, list[Tensors]]:
    """What each stage may read, for each picture: features, and the picture as it was fitted for the stage."""
    known: dict[StageName, list[Tensors]] = {}
    batches = [image[None] for image in letterboxed(pictures, runner.bundle.fit)]
    usual: list[Tensors] = [{**runner.first(batch), "image": batch} for batch in batches]
    for name, stage in runner.bundle.stages.items():
        known[name] = usual
        if name == OWN:
            assert stage.detector is not None
            known[name] = [{"image": image[None]} for image in letterboxed(pictures, stage.detector.spec.input.fit)]
    return known


def _stage(before: Stage, file: Path) -> Stage:
    """A stage after its graph was quantized."""
    after = stage_of(file)
    precision = None if before.precision is None else precision_in(onnx.load(file))
    return before.model_copy(
        update={"sha256": after.sha256, "inputs": after.inputs, "outputs": after.outputs, "precision": precision}
    )


def _pictures(folder: Path, calibration: int, compared: int) -> tuple[list[Path], list[Path]]:
    """Images for calibration, an even number, and others for the comparison; both spread over the folder."""
    if calibration < CHUNK or compared < 1:
        raise InputError(f"int8 needs at least {CHUNK} images for calibration and 1 for the comparison")
    chosen = spread(pictures_in(folder), calibration + compared)
    if len(chosen) <= CHUNK:
        raise InputError(f"{folder} holds {len(chosen)} images; int8 needs at least {CHUNK + 1}, better 100")
    held = spread(chosen, max(1, len(chosen) * compared // (calibration + compared)))
    rest = [path for path in chosen if path not in set(held)]
    return rest[: len(rest) // CHUNK * CHUNK], held


def _parity(found: Differences) -> Parity:
    return Parity(
        images=found.images,
        batch_sizes=(1,),
        box_px=found.box_px,
        score=found.score,
        difficulty=found.difficulty,
        route_flip_share=found.route_flip_share,
    )


def _account(found: Differences, counts: list[Counts], images: int, source: str) -> Quantization:
    return Quantization(
        method=f"percentile {PERCENTILE}",
        calibration_images=images,
        convolutions=sum(each.convolutions for each in counts),
        quantized=sum(each.quantized for each in counts),
        source_sha256=source,
        from_score=FROM_SCORE,
        unmatched_share=found.unmatched_share,
        box_px_median=found.box_px_median,
    )


def _with_precision(
    result: Bundle, before: Path, after: Path, data: Path, trust_pictures: bool, progress: Progress
) -> Bundle:
    """The bundle with both average precisions, of boxes and of masks, measured on a COCO data set."""
    from dyndet_builder.evaluation.evaluate import evaluate  # needs the extra `train`

    cost: dict[str, object] = {}
    for folder, name, when in ((before, "fp32", "before"), (after, "int8", "after")):
        report = evaluate(
            folder,
            data=data,
            trust_pictures=trust_pictures,
            progress=lambda step, *done, name=name: progress(f"{name}: {step}", *done),
        )
        cost["data"] = report.data
        for kind, found in (("ap", report.evaluation), ("mask_ap", report.evaluation.masks)):
            if found is not None:
                cost[f"{kind}_{when}"] = AveragePrecision(easy=found.easy.ap, hard=found.hard.ap)
    assert result.quantization is not None
    return result.model_copy(update={"quantization": result.quantization.model_copy(update=cost)})
