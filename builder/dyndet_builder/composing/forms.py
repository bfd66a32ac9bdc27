"""The forms of a graph that routes itself: for one image or any batch, with branches or with rows.

With branches, a route that no image takes is not run at all. Its weights lie inside its branch, so ONNX Runtime
optimises a branch like the stage in a file of its own, and computes the same bits. There is one exception: on a CPU,
version 1.32 lays out half-precision weights for its faster convolutions only outside of branches. With rows, there are
no branches: the stages of a route get the rows of its images, and if there are none, tensors without elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dyndet_builder.bundle.manifest import DIFFICULTY, IMAGE, Bundle, Stage, StageName, Tensor
from dyndet_builder.bundle.parts import ROUTE, THRESHOLD
from dyndet_builder.composing.stages import as_part

BATCH, THRESHOLDS = "batch", "thresholds"
_EASY, _HARD = 1, 2
_TYPES = {
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
}


def compose_graph(
    bundle: Bundle,
    models: Mapping[StageName, onnx.ModelProto],
    *,
    threshold: float | None,
    one: bool,
    branched: bool,
) -> onnx.GraphProto:
    """The graph, for one image at a time or any batch, with branches or rows. `threshold` None: it has no default.

    Inputs `image` uint8 (B, H, W, 3) and `threshold` float32 (B, 1) or (1, 1). Outputs those of both routes, then
    `difficulty` float32 (B, 1) and `route` int32 (B, 1), 1 easy, 2 hard. An image is hard if its difficulty exceeds the
    threshold or is NaN, and at threshold 0.
    """
    first = as_part(models[bundle.first], f"{bundle.first}/", {IMAGE: IMAGE, DIFFICULTY: DIFFICULTY})
    nodes = [*first.node, *_rule()]
    constants = [*first.initializer, *_constants()]
    given = bundle.answers
    known = {tensor.name: f"{bundle.first}/{tensor.name}" for tensor in bundle.stages[bundle.first].outputs}
    names = {**known, IMAGE: IMAGE}
    gathered = not (one and branched)
    routes = {route: _route(bundle, models, route, given, names, gathered=gathered) for route in ("easy", "hard")}
    sparse = [*first.sparse_initializer]
    if not gathered:
        nodes += _choice(routes, given)
    else:
        nodes += _rows()
        for route, body in routes.items():
            if branched:
                nodes += _if_any(route, body, given)
            else:
                nodes += body.node
                constants += body.initializer
                sparse += body.sparse_initializer
        nodes += _back(given, branched=branched)
        constants += _row_constants()
    batch: int | str = 1 if one else BATCH
    (image,) = bundle.stages[bundle.first].inputs
    inputs = [
        helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, [batch, *image.shape]),
        helper.make_tensor_value_info(THRESHOLD, TensorProto.FLOAT, [1 if one else THRESHOLDS, 1]),
    ]
    outputs = [_info(tensor, tensor.name, batch) for tensor in given]
    outputs.append(helper.make_tensor_value_info(DIFFICULTY, TensorProto.FLOAT, [batch, 1]))
    outputs.append(helper.make_tensor_value_info(ROUTE, TensorProto.INT32, [batch, 1]))
    if threshold is not None:
        constants.append(numpy_helper.from_array(np.array([[threshold]], np.float32), THRESHOLD))
    graph = helper.make_graph(nodes, bundle.name, inputs, outputs, constants)
    graph.sparse_initializer.extend(sparse)
    return graph


def _info(tensor: Tensor, name: str, batch: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _TYPES[tensor.dtype], [batch, *tensor.shape])


def _rule() -> list[onnx.NodeProto]:
    """`routing/hard` bool (B, 1) and `route` int32 (B, 1). A comparison with NaN is false, so NaN is hard."""
    return [
        helper.make_node("Greater", [THRESHOLD, "routing/zero"], ["routing/open"], "routing/open"),
        helper.make_node("LessOrEqual", [DIFFICULTY, THRESHOLD], ["routing/within"], "routing/within"),
        helper.make_node("And", ["routing/open", "routing/within"], ["routing/is_easy"], "routing/is_easy"),
        helper.make_node("Not", ["routing/is_easy"], ["routing/is_hard"], "routing/is_hard"),
        helper.make_node("Where", ["routing/is_hard", "routing/two", "routing/one"], [ROUTE], "routing/route"),
    ]


def _constants() -> list[onnx.TensorProto]:
    routes = {"one": _EASY, "two": _HARD}
    return [
        numpy_helper.from_array(np.array([0], np.float32), "routing/zero"),
        *(numpy_helper.from_array(np.array([value], np.int32), f"routing/{name}") for name, value in routes.items()),
    ]


def _route(
    bundle: Bundle,
    models: Mapping[StageName, onnx.ModelProto],
    route: str,
    given: Sequence[Tensor],
    names: Mapping[str, str],
    *,
    gathered: bool,
) -> onnx.GraphProto:
    """A route's graph. With `gathered`, it takes its own images from all of them first."""
    stage: StageName | None = "detector2" if route == "hard" else bundle.easy
    described: Stage = bundle.stages[stage or bundle.first]
    wanted = given if stage is None else described.inputs
    taken = {tensor.name: f"{route}/{tensor.name}/taken" if gathered else names[tensor.name] for tensor in wanted}
    gathers = [
        helper.make_node("Gather", [names[name], f"{route}/rows"], [tensor], tensor, axis=0)
        for name, tensor in taken.items()
        if gathered
    ]
    outputs = [_info(tensor, f"{route}/{tensor.name}", f"{route}/batch" if gathered else 1) for tensor in given]
    if stage is None:  # detector 1 of a pair has answered already
        passed = [
            helper.make_node("Identity", [taken[tensor.name]], [f"{route}/{tensor.name}"], f"{route}/{tensor.name}")
            for tensor in given
        ]
        return helper.make_graph([*gathers, *passed], route, [], outputs)
    part = as_part(models[stage], f"{stage}/", taken | {tensor.name: f"{route}/{tensor.name}" for tensor in given})
    body = helper.make_graph([*gathers, *part.node], route, [], outputs, part.initializer)
    body.sparse_initializer.extend(part.sparse_initializer)
    body.value_info.extend(part.value_info)
    return body


def _choice(routes: Mapping[str, onnx.GraphProto], given: Sequence[Tensor]) -> list[onnx.NodeProto]:
    """One image: the branch of its route, and nothing of the other."""
    return [
        helper.make_node("Squeeze", ["routing/is_hard"], ["routing/condition"], "routing/condition"),
        helper.make_node(
            "If",
            ["routing/condition"],
            [tensor.name for tensor in given],
            "routing/choice",
            then_branch=routes["hard"],
            else_branch=routes["easy"],
        ),
    ]


def _rows() -> list[onnx.NodeProto]:
    """`easy/rows` and `hard/rows`: the numbers of the images that take a route, int64 (n,)."""
    nodes = [
        helper.make_node("Squeeze", ["routing/is_hard", "routing/columns"], ["hard/are"], "hard/are"),
        helper.make_node("Not", ["hard/are"], ["easy/are"], "easy/are"),
    ]
    for route in ("easy", "hard"):
        found, rows = f"{route}/found", f"{route}/rows"
        nodes.append(helper.make_node("NonZero", [f"{route}/are"], [found], found))
        nodes.append(helper.make_node("Squeeze", [found, "routing/rows"], [rows], rows))
    return nodes


def _if_any(route: str, body: onnx.GraphProto, given: Sequence[Tensor]) -> list[onnx.NodeProto]:
    """The answers to the images of a route, if there are any."""
    count, some = f"{route}/count", f"{route}/any"
    return [
        helper.make_node("Size", [f"{route}/rows"], [count], count),
        helper.make_node("Greater", [count, "routing/none"], [some], some),
        helper.make_node(
            "If",
            [some],
            [f"{route}/{tensor.name}/answer" for tensor in given],
            f"{route}/answer",
            then_branch=body,
            else_branch=_nothing(route, given),
        ),
    ]


def _back(given: Sequence[Tensor], *, branched: bool) -> list[onnx.NodeProto]:
    """The answers of both routes, back at the places of their images."""
    nodes = [
        helper.make_node("Concat", ["easy/rows", "hard/rows"], ["routing/order"], "routing/order", axis=0),
        helper.make_node("Size", ["routing/order"], ["routing/size"], "routing/size"),
        helper.make_node(
            "Range", ["routing/none", "routing/size", "routing/step"], ["routing/numbers"], "routing/numbers"
        ),
        helper.make_node(
            "ScatterElements",
            ["routing/order", "routing/order", "routing/numbers"],
            ["routing/places"],
            "routing/places",
            axis=0,
        ),
    ]
    for tensor in given:
        suffix = "/answer" if branched else ""
        both, joined = [f"{route}/{tensor.name}{suffix}" for route in ("easy", "hard")], f"routing/{tensor.name}"
        nodes.append(helper.make_node("Concat", both, [joined], joined, axis=0))
        nodes.append(helper.make_node("Gather", [joined, "routing/places"], [tensor.name], tensor.name, axis=0))
    return nodes


def _nothing(route: str, given: Sequence[Tensor]) -> onnx.GraphProto:
    """The answers to no images."""
    nodes = []
    for tensor in given:
        name = f"{route}/{tensor.name}/none"
        empty = helper.make_tensor(name, _TYPES[tensor.dtype], [0, *tensor.shape], [])
        nodes.append(helper.make_node("Constant", [], [name], name, value=empty))
    outputs = [_info(tensor, f"{route}/{tensor.name}/none", 0) for tensor in given]
    return helper.make_graph(nodes, f"{route}/nothing", [], outputs)


def _row_constants() -> list[onnx.TensorProto]:
    numbers = {"columns": [1], "rows": [0], "none": 0, "step": 1}
    return [numpy_helper.from_array(np.array(value, np.int64), f"routing/{name}") for name, value in numbers.items()]
