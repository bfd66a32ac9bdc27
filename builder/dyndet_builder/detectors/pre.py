"""From uint8 pictures to a detector's inputs, as operators."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import IMAGE
from dyndet_builder.bundle.spec import ExtraInput, InputSpec
from dyndet_builder.detectors.facts import TensorFacts
from dyndet_builder.detectors.ops import FLOAT, Ops

_TYPES = {"float16": onnx.TensorProto.FLOAT16, "uint8": onnx.TensorProto.UINT8}


def add_inputs(ops: Ops, spec: InputSpec, *, fit: Fit, inputs: dict[str, TensorFacts]) -> dict[str, str]:
    """Add what makes a detector's inputs from `image`; gives the tensor of each of its `inputs`, by name."""
    described = [spec.name, *(one.name for one in spec.extra)]
    if set(inputs) != set(described):
        found, wanted = (printable(", ".join(names), limit=200) for names in (inputs, described))
        raise InputError(f"the detector's inputs are {found}, but its description names {wanted}")
    _check_picture(spec, inputs[spec.name])
    return {spec.name: _picture(ops, spec, fit)} | {
        one.name: _extra(ops, one, spec, inputs[one.name].dims) for one in spec.extra
    }


def _check_picture(spec: InputSpec, found: TensorFacts) -> None:
    sides = spec.size
    wanted = (3, *sides) if spec.layout == "NCHW" else (*sides, 3)
    fits = len(found.dims) == 4 and all(
        isinstance(dim, str) or dim == side for dim, side in zip(found.dims[1:], wanted, strict=False)
    )
    if not fits or found.dtype != spec.dtype:
        shape = ", ".join(map(str, wanted))
        raise InputError(
            f"the detector's input is {found.described}, but its description says {spec.dtype} [batch, {shape}]"
        )
    batch = found.dims[0]
    if isinstance(batch, int) and (batch != 1 or spec.batch == "dynamic"):
        raise InputError(
            f"the detector takes exactly {batch} picture{'s' if batch > 1 else ''} at a time, but its description says "
            f"`batch: {spec.batch}`; " + ("use `batch: one`" if batch == 1 else "export it with a batch of 1")
        )


def _picture(ops: Ops, spec: InputSpec, fit: Fit) -> str:
    resized = (fit.height, fit.width) != spec.size
    plain = spec.dtype == "uint8" and not resized
    # The cast comes first: it is the only layer for which TensorRT accepts uint8.
    tensor = IMAGE if plain else ops.Cast(IMAGE, to=FLOAT)
    first = spec.layout == "NCHW"
    if first or resized:
        tensor = ops.Transpose(tensor, perm=[0, 3, 1, 2])
    if resized:
        scales = [1.0, 1.0, _scale(fit.height, spec.size[0]), _scale(fit.width, spec.size[1])]
        options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        tensor = ops.Resize(tensor, "", scales, **options)
    if spec.colour == "BGR":
        tensor = ops.Gather(tensor, [2, 1, 0], axis=1 if first or resized else 3)
    if not first and resized:
        tensor = ops.Transpose(tensor, perm=[0, 2, 3, 1])
    if spec.dtype != "uint8":
        tensor = _normalised(ops, tensor, spec)
    elif resized:
        tensor = ops.Round(tensor)
    if spec.dtype == "float32" or plain:
        return str(ops.Identity(tensor)) if tensor == IMAGE else str(tensor)
    return str(ops.Cast(tensor, to=_TYPES[spec.dtype]))


def _normalised(ops: Ops, tensor: str, spec: InputSpec) -> str:
    mean, std = (_channels(values, spec) for values in (spec.mean, spec.std))
    if not mean.any() and (std == 1).all():
        return str(tensor if spec.divide_by == 1 else ops.Div(tensor, spec.divide_by))
    factor = 1.0 / (spec.divide_by * std)
    return str(ops.Sub(ops.Mul(tensor, factor.astype(np.float32)), (mean / std).astype(np.float32)))


def _channels(values: tuple[float, float, float], spec: InputSpec) -> npt.NDArray[np.float64]:
    return np.array(values, np.float64).reshape((3, 1, 1) if spec.layout == "NCHW" else (3,))


def _scale(side: int, wanted: int) -> float:
    """The scale from which ONNX, which rounds down, computes the wanted side."""
    scale = np.float32(wanted / side)
    while math.floor(np.float32(side) * scale) < wanted:
        scale = np.nextafter(scale, np.float32(2) * scale)
    return float(scale)


def _extra(ops: Ops, extra: ExtraInput, spec: InputSpec, dims: tuple[int | str, ...]) -> str:
    height, width = spec.size
    sides = {"width-height": (width, height), "height-width": (height, width)}
    dtype = np.dtype(extra.dtype)
    if extra.kind == "mask":
        known = [dim if isinstance(dim, int) else None for dim in dims]
        shape = [1, *(1 if dim is None else dim for dim in known[1:-2]), known[-2] or height, known[-1] or width]
        value = np.ones(shape, dtype)
    else:
        value = np.array([sides.get(extra.kind, (1, 1))], dtype)
    if len(dims) != value.ndim:
        raise InputError(f"the detector's input {printable(extra.name)} has {len(dims)} axes instead of {value.ndim}")
    if spec.batch == "one" or isinstance(dims[0], int):
        return str(ops.Identity(value))
    batch = ops.Gather(ops.Shape(IMAGE), [0], axis=0)
    others = np.array(value.shape[1:], np.int64)
    return str(ops.Expand(value, ops.Concat(batch, others, axis=0)))


def image_info(fit: Fit, batch: int | str) -> onnx.ValueInfoProto:
    """The declaration of the input `image`."""
    return helper.make_tensor_value_info(IMAGE, onnx.TensorProto.UINT8, [batch, *fit.shape])
