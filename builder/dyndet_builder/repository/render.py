"""Renders a bundle as a Triton model repository: the public detector and, unless it is fused, its stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from dynamicdet.images import read_image
from dynamicdet.letterbox import Fit
from dynamicdet.pictures import pictures_in
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import OWN, Bundle, StageName, Tensor, file_sha256, read_bundle
from dyndet_builder.engines.record import FILE_NAME as ENGINES_FILE
from dyndet_builder.engines.record import PLAN, Engines
from dyndet_builder.operating_points import (
    Tenant,
    points_file,
    read_operating_points,
    uncalibrated,
)
from dyndet_builder.repository.backends import BACKENDS, Backend, check_target
from dyndet_builder.repository.config import PublicModel, StageModel
from dyndet_builder.repository.encoded import encoded_model, write_encoded
from dyndet_builder.repository.engines import engines_for
from dyndet_builder.repository.marker import DetectorRecord
from dyndet_builder.repository.mask_head import write_apart
from dyndet_builder.repository.models import config_text, public_model
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.place import check_place, placed
from dyndet_builder.templates import TEMPLATES, fill

__all__ = ["RenderOptions", "check_destination", "render"]

_NO_PLAN = "PUT_MODEL_PLAN_HERE.txt"
_ONNX_TYPES = {"uint8": TensorProto.UINT8, "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
_IR_VERSION = 8  # that of the stages' graphs
_LARGEST_OPSET = 17  # of that version; the files of a pair can have later ones


def render(
    bundle: Path,
    output: Path,
    options: RenderOptions | None = None,
    *,
    add: bool = False,
    chosen_by: Mapping[str, object] | None = None,
) -> Path:
    """Render a bundle as a model repository that needs nothing outside its folder, and return that folder.

    `output` appears whole or not at all. A detector of the same name that dyndet rendered there before is replaced,
    together with its operating points. They were measured on the old configuration, so the new detector is
    uncalibrated; its tenants stay. To change only the operating points, run `dyndet calibrate`. With `add`, `output`
    can hold detectors of other names; their files stay as they are. `chosen_by`, the measurements that led to these
    options, is stored in the repository's `dyndet.json`.

    Raises InputError for a damaged bundle, impossible options, and an `output` that dyndet did not render, that holds
    other detectors although `add` is not set, or that has another use for the names of the models; and for damaged
    operating points of the detector that would be replaced.
    """
    options = options or RenderOptions()
    described = read_bundle(bundle)
    check_target(described, options.backend, on_gpu=bool(options.gpus))
    name = options.name or described.name
    check_place(output, name, add=add)
    tenants = _tenants(output, name)
    warmups = {} if options.warmup_image is None else _warmups(options.warmup_image, described)
    engines = None if options.engines is None else engines_for(options.engines, described, options)
    with placed(output, name, add=add) as (folder, record):
        bundle_sha256 = file_sha256(bundle / BUNDLE_FILE)
        detector = public_model(described, name, options, bundle_sha256)
        for model in detector.stages:
            plan = None if engines is None else _plan(engines, model.stage, options.engines)
            graph = bundle / described.stages[model.stage].file
            _write_stage(folder, model, BACKENDS[options.backend], graph, warmups.get(model.stage), plan=plan)
        version = _write_public(folder, detector, described, options, tenants=tenants)
        if detector.topology == "fused":
            _write_graphs(version, bundle, described, warmups)
        if options.encoded:
            write_encoded(folder, encoded_model(detector, described, options))
        _keep_bytecode_out(folder)
        shutil.copyfile(bundle / BUNDLE_FILE, folder / name / BUNDLE_FILE)
        if options.engines is not None:
            shutil.copyfile(options.engines / ENGINES_FILE, folder / name / ENGINES_FILE)
        record[name] = DetectorRecord(
            bundle_sha256=bundle_sha256,
            models=tuple(sorted(path.name for path in folder.iterdir())),
            described_in=name,
            options=asdict(options),
            chosen_by=None if chosen_by is None else dict(chosen_by),
        )
    return output


def check_destination(bundle: Path, output: Path, options: RenderOptions, *, add: bool = False) -> None:
    """Check, before anything is measured, that `render` can write there. Raises InputError."""
    described = read_bundle(bundle)
    check_target(described, options.backend, on_gpu=bool(options.gpus))
    name = options.name or described.name
    check_place(output, name, add=add)
    _tenants(output, name)


def _plan(engines: Engines, stage: StageName, folder: Path | None) -> Path:
    assert folder is not None
    return folder / engines.stages[stage].file


def _write_stage(
    repository: Path, model: StageModel, backend: Backend, graph: Path, warmup: bytes | None, *, plan: Path | None
) -> None:
    folder = repository / model.name
    version = folder / "1"
    version.mkdir(parents=True)
    shutil.copyfile(graph, version / "model.onnx")
    if backend.prepare is not None:
        backend.prepare(graph, version)
    for source in backend.template.glob("*.py"):
        shutil.copyfile(source, version / source.name)
    if plan is not None:
        shutil.copyfile(plan, version / PLAN)
    elif backend.needs_plan:
        (version / _NO_PLAN).write_text(fill(backend.template / f"{_NO_PLAN}.jinja", model=model))
    for name in {tensor.file for each in model.warmups for tensor in each.inputs if tensor.file}:
        assert warmup is not None
        (folder / "warmup").mkdir(exist_ok=True)
        (folder / "warmup" / name).write_bytes(warmup)
    (folder / "config.pbtxt").write_text(config_text(backend.template / "config.pbtxt.jinja", model))


def _tenants(repository: Path, name: str) -> Mapping[str, Tenant] | None:
    """The tenants of the detector that is to be replaced, None without one. Raises InputError for a damaged file.

    A damaged file is somebody's slip while editing, and what was measured, promised and budgeted is only in there.
    """
    file = points_file(repository, name)
    return read_operating_points(file).tenants if file.exists() else None


def _write_public(
    repository: Path,
    model: PublicModel,
    bundle: Bundle,
    options: RenderOptions,
    *,
    tenants: Mapping[str, Tenant] | None,
) -> Path:
    """Write the public model without its graphs; returns the folder of its version."""
    folder = repository / model.name
    version = folder / "1"
    version.mkdir(parents=True)
    for part in ("public", "queueing", model.topology):
        for source in (TEMPLATES / part).glob("*.py"):
            shutil.copyfile(source, version / source.name)
    settings: dict[str, object] = {
        "first": bundle.first,
        "easy": bundle.easy,
        "hard": "detector2",
        "own": OWN if OWN in bundle.stages else None,
        "instances": model.instances * max(1, len(model.gpus)),
        "workers": options.workers,
        "merged": options.max_batch if model.topology == "fused" and options.stages_merge else 1,
        "stages": {
            name: {
                "role": name,
                "model": f"{model.name}_{name}",
                "inputs": [tensor.name for tensor in stage.inputs],
                "outputs": [tensor.name for tensor in stage.outputs],
                "batch": stage.batch,
            }
            for name, stage in bundle.stages.items()
        },
        "detection_outputs": list(bundle.detection_outputs),
        "latency_buckets_ms": list(options.latency_buckets_ms),
        "queue": options.queue_size,
    }
    if model.topology == "bls":
        settings["stage_memory"] = "gpu" if options.gpus else "cpu"
    else:
        settings["fused"] = {
            "threads": options.threads,
            "shared_pool": options.instances == 1 and not options.gpus,
            "merges": options.stages_merge,
            "image_shapes": {stage: list(bundle.stages[stage].inputs[0].shape) for stage in _first_stages(bundle)},
        }
    _write_json(version / "dyndet.json", settings)
    points = uncalibrated(options.threshold, tenants=tenants)
    points_file(repository, model.name).write_text(points.model_dump_json(indent=2) + "\n")
    (folder / "config.pbtxt").write_text(config_text(TEMPLATES / "public" / "config.pbtxt.jinja", model))
    return version


def _first_stages(bundle: Bundle) -> tuple[StageName, ...]:
    """The stages with which a request can begin."""
    return (bundle.first, OWN) if OWN in bundle.stages else (bundle.first,)


def _write_graphs(version: Path, bundle: Path, described: Bundle, warmups: Mapping[StageName, bytes]) -> None:
    """Write the graphs that a fused model runs itself."""
    for name, stage in described.stages.items():
        shutil.copyfile(bundle / stage.file, version / f"{name}.onnx")
        if described.has_masks:
            write_apart(bundle / stage.file, version, prefix=f"{name}_")
    onnx.save(_select_graph(described), version / "select.onnx")
    for first in _first_stages(described) if warmups else ():
        (version / f"warmup_{first}.raw").write_bytes(warmups[first])


def _keep_bytecode_out(folder: Path) -> None:
    """Put an empty file where Python would create a folder for compiled code, beside every Python file.

    A new `__pycache__` is a change of the model, so a server that polls would load it again. The stub of Triton's
    Python backend ignores PYTHONDONTWRITEBYTECODE.
    """
    for beside in {path.parent for path in folder.rglob("*.py")}:
        (beside / "__pycache__").touch()


def _select_graph(bundle: Bundle) -> onnx.ModelProto:
    """The graph with which a fused detector selects images of a batch without leaving the device.

    Inputs: `rows` int64 [n], and the tensors that the detectors read, (B, ...). Outputs: `<name>_selected` (n, ...).
    """
    tensors = {tensor.name: tensor for stage in bundle.served for tensor in bundle.stages[stage].inputs}
    rows = helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])
    graph = helper.make_graph(
        [helper.make_node("Gather", [name, "rows"], [f"{name}_selected"], axis=0) for name in tensors],
        "select",
        [rows, *(_value_info(tensor, name, "batch") for name, tensor in tensors.items())],
        [_value_info(tensor, f"{name}_selected", "n") for name, tensor in tensors.items()],
    )
    opset = min(bundle.opset, _LARGEST_OPSET)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_VERSION, producer_name="dyndet"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _value_info(tensor: Tensor, name: str, batch: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _ONNX_TYPES[tensor.dtype], [batch, *tensor.shape])


def _warmups(image: Path, bundle: Bundle) -> dict[StageName, bytes]:
    """The pixels with which each stage warms up."""
    picture = read_image(pictures_in(image)[0] if image.is_dir() else image)
    fits: dict[StageName, Fit] = dict.fromkeys(bundle.stages, bundle.fit)
    if OWN in bundle.stages and (own := bundle.stages[OWN].detector) is not None:
        fits[OWN] = own.spec.input.fit
    return {stage: fit(picture).image.tobytes() for stage, fit in fits.items()}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
