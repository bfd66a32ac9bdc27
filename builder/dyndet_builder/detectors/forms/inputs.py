"""Which input of a graph is the picture, and what the others are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from dynamicdet.errors import InputError
from dyndet_builder.bundle.spec import ExtraInput, ExtraKind
from dyndet_builder.detectors.facts import GraphFacts, TensorFacts

_FLOATS = ("float32", "float16")
_KINDS: dict[str, ExtraKind] = {
    "orig_target_sizes": "width-height",
    "orig_sizes": "width-height",
    "orig_size": "width-height",
    "image_shape": "height-width",
    "im_shape": "height-width",
    "scale_factor": "scale-yx",
    "pixel_mask": "mask",
}
"""of inputs beside the picture: the order of width and height is that of the exporters which use the name"""
SIDES = (8, 4096)
"""least and most pixels of a side, as in `detector.yaml`"""
_EXTRA_DTYPES = get_args(ExtraInput.model_fields["dtype"].annotation)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The picture's tensor, and the others."""

    name: str
    dtype: Literal["float32", "float16", "uint8"]
    layout: Literal["NCHW", "NHWC"]
    size: tuple[int, int] | None
    """height and width; None if the graph takes several"""
    batch: Literal["dynamic", "one"]
    extra: tuple[ExtraInput, ...]


def inputs_of(facts: GraphFacts) -> Inputs:
    """Tell the picture from the other inputs.

    Raises InputError, in one sentence, if the graph takes no picture, if it takes several pictures at a time, or such
    of a size that is not accepted, and for inputs that nothing is known about.
    """
    found = [one for one in facts.inputs if _layout(one) is not None]
    if len(found) != 1:
        shown = ", ".join(one.described for one in facts.inputs) or "none"
        unbatched = [one for one in facts.inputs if len(one.dims) == 3 and 3 in one.dims and one.dtype in _FLOATS]
        if unbatched and not found:
            raise InputError(
                f"the input {unbatched[0].described} has no axis for the batch, as in exports of torchvision; export a "
                "module that takes (batch, 3, height, width) and gives boxes and scores before suppression"
            )
        which = "no picture" if not found else "several pictures"
        raise InputError(f"the graph takes {which}, so it is no detector that can be used; its inputs: {shown}")
    picture = found[0]
    layout = _layout(picture) or "NCHW"
    batch = picture.dims[0]
    if isinstance(batch, int) and batch != 1:
        raise InputError(
            f"the graph takes exactly {batch} pictures at a time; export it with a batch of 1, or a dynamic one"
        )
    height, width = picture.dims[2:4] if layout == "NCHW" else picture.dims[1:3]
    if not all(SIDES[0] <= side <= SIDES[1] for side in (height, width) if isinstance(side, int)):
        raise InputError(
            f"the graph takes pictures of {height} x {width} (height x width); accepted are sides of {SIDES[0]} to "
            f"{SIDES[1]} pixels"
        )
    return Inputs(
        name=picture.name,
        dtype=cast(Literal["float32", "float16", "uint8"], picture.dtype),
        layout=layout,
        size=(height, width) if isinstance(height, int) and isinstance(width, int) else None,
        batch="one" if batch == 1 else "dynamic",
        extra=tuple(_extra(one) for one in facts.inputs if one is not picture),
    )


def _layout(tensor: TensorFacts) -> Literal["NCHW", "NHWC"] | None:
    """Of a picture; None for what is none."""
    if len(tensor.dims) != 4 or tensor.dtype not in (*_FLOATS, "uint8"):
        return None
    channels_first, channels_last = tensor.dims[1], tensor.dims[3]
    if channels_first == 3:
        return "NCHW"
    if channels_last == 3:
        return "NHWC"
    return "NCHW" if isinstance(channels_first, str) else None


def _extra(tensor: TensorFacts) -> ExtraInput:
    kind = _KINDS.get(tensor.name.lower())
    if kind is None or tensor.dtype not in _EXTRA_DTYPES:
        raise InputError(
            f"the graph has an input that nothing is known about, {tensor.described}; export it with the picture as "
            f"its only input, or with one of these: {', '.join(_KINDS)}"
        )
    return ExtraInput.model_validate({"name": tensor.name, "dtype": tensor.dtype, "kind": kind})
