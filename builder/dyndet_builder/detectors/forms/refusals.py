"""Files that no detector can be made of: one sentence each, and the export that works where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.detectors.facts import GraphFacts, TensorFacts

_PLUGINS = {
    "TRTBatchedNMS": "export it for ONNX Runtime with a deploy configuration `detection_onnxruntime_*`",
    "EfficientNMS": "export it without suppression (YOLOv6, v7 and v9: without `--end2end`, YOLOv7 with `--grid`)",
    "BatchedNMS": "export the graph up to its boxes and scores, before that operator",
    "NMS_TRT": "export the graph up to its boxes and scores, before that operator",
}
"""operators of TensorRT alone, by the beginning or the end of their names, and the way out"""
_TASKS = {
    "segment": "instance segmentation",
    "pose": "key points",
    "obb": "turned boxes",
    "classify": "classification",
    "semantic": "semantic segmentation",
    "depth": "depth",
}
_AS_DETECTOR = "export a detector of upright boxes"


def refuse_operators(facts: GraphFacts) -> None:
    """Raise InputError for operators that ONNX Runtime lacks: plugins of TensorRT, other domains, own functions."""
    foreign = [name for name in facts.operators if ":" in name or not onnx.defs.has(name)]
    for name in foreign:
        operator = name.rpartition(":")[2]
        for plugin, advice in _PLUGINS.items():
            if operator.startswith(plugin) or operator.endswith(plugin):
                raise InputError(f"the graph has the operator {operator}, which only TensorRT has; {advice}")
    if any(name.startswith("com.microsoft") for name in foreign):
        raise InputError(
            f"the graph has operators that only ONNX Runtime has ({_listed(foreign)}); give the file that it was "
            "optimised from"
        )
    if any(name.startswith("mmdeploy") for name in foreign):
        raise InputError(
            f"the graph has operators that only mmdeploy has ({_listed(foreign)}); export a model that needs none"
        )
    if facts.functions:
        raise InputError(
            f"the file has functions of its own ({_listed(facts.functions)}); inline them with "
            "`onnx.inliner.inline_local_functions`"
        )
    if foreign:
        raise InputError(
            f"the graph has operators outside the ONNX standard ({_listed(foreign)}); export it with standard "
            "operators alone"
        )


def refuse_task(facts: GraphFacts) -> None:
    """Raise InputError if the metadata name another task than detection."""
    task = facts.metadata.get("task", "detect").strip().lower()
    if task not in ("detect", "detection", "object-detection", ""):
        found = _TASKS.get(task, printable(task, limit=40))
        raise InputError(f"the metadata say that this model is for {found}, not for detection; {_AS_DETECTOR}")


def refuse_shape(facts: GraphFacts) -> None:
    """Raise InputError for outputs of a form that is known and cannot be used, such as rows without a batch."""
    names = {one.name.lower() for one in facts.outputs}
    if names & {"masks", "pred_masks"}:
        raise InputError(f"the graph gives masks, so it is for segmentation; {_AS_DETECTOR}")
    for rule in (_ragged, _prototypes):
        if sentence := rule(facts.outputs):
            raise InputError(sentence)


def looks_like(facts: GraphFacts) -> str:
    """What a graph without detections seems to be, for a sentence."""
    outputs = facts.outputs
    for rule in (_raw_maps, _classifier, _map, _sequence, _heads):
        if sentence := rule(outputs):
            return sentence
    return "its outputs have none of the forms of a detector"


def _ragged(outputs: Sequence[TensorFacts]) -> str:
    """Rows of all pictures in one list, whose length changes."""
    rows = [one for one in outputs if len(one.dims) == 2 and one.dims[1] in (5, 6, 7) and isinstance(one.dims[0], str)]
    count = [one for one in outputs if len(one.dims) == 1 and one.dtype.startswith("int")]
    if rows and count:
        return (
            f"the output {rows[0].described} lists the boxes of all pictures without an axis for the batch, as in "
            "PaddleDetection, and cannot be used; RT-DETR also exists in tools whose exports can"
        )
    if rows:
        return (
            f"the output {rows[0].described} lists the boxes of all pictures without an axis for the batch; export it "
            "without suppression (YOLOv7: `--grid` alone), or in the batch format (YOLO-NAS)"
        )
    boxes = [one for one in outputs if len(one.dims) == 2 and one.dims[1] == 4]
    if boxes and len(outputs) >= 3:
        return (
            f"the output {boxes[0].described} has no axis for the batch, as in exports of torchvision; export a module "
            "that takes (batch, 3, height, width) and gives boxes and scores before suppression"
        )
    selected = [one for one in outputs if len(one.dims) == 2 and one.dims[1] == 3 and one.dtype.startswith("int")]
    if selected and len(outputs) >= 3:
        return (
            f"the output {selected[0].described} lists places in other outputs, as in the YOLOv3 of the ONNX zoo; "
            "export it without suppression"
        )
    return ""


def _prototypes(outputs: Sequence[TensorFacts]) -> str:
    maps = [one for one in outputs if len(one.dims) == 4]
    if len(outputs) == 2 and len(maps) == 1 and len(outputs[0].dims) == 3:
        return f"the output {maps[0].described} holds parts of masks, so the model is for segmentation; {_AS_DETECTOR}"
    return ""


def _raw_maps(outputs: Sequence[TensorFacts]) -> str:
    if len(outputs) >= 2 and all(len(one.dims) in (4, 5) for one in outputs):
        return (
            "its outputs are maps before boxes are computed, and the anchors are not in the file; export it with boxes "
            "(YOLOv7: `--grid`)"
        )
    return ""


def _classifier(outputs: Sequence[TensorFacts]) -> str:
    if len(outputs) == 1 and len(outputs[0].dims) in (1, 2):
        return f"it looks like a classifier: its only output is {outputs[0].described}"
    return ""


def _map(outputs: Sequence[TensorFacts]) -> str:
    if len(outputs) == 1 and len(outputs[0].dims) == 4:
        return f"it looks like a model for segmentation or depth: its only output is {outputs[0].described}"
    return ""


def _sequence(outputs: Sequence[TensorFacts]) -> str:
    if any(one.dims == ("...",) for one in outputs):
        return "an output has no shape in the file; write shapes into it with `onnx.shape_inference.infer_shapes_path`"
    return ""


def _heads(outputs: Sequence[TensorFacts]) -> str:
    if len(outputs) >= 6:
        return "its outputs are those of several heads, before they are joined to boxes; export it with boxes"
    return ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name, limit=60) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
