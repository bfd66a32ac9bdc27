"""Options of the commands that take ONNX files of others: what a file does not tell about its detector."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from dynamicdet.letterbox import Filter, Place, Resize
from dyndet_builder.bundle.spec import Activation, Background, BoxForm, Colour, Family, Unit
from dyndet_builder.detectors.layers import OPTIONS, Classes, Given, Layer
from dyndet_builder.detectors.sources.recipes import RECIPES


class _Size(click.ParamType):  # type: ignore[type-arg]
    """`640`, or height x width: `544x960`."""

    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", str(value))
        height, width = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not (8 <= height <= 4096 and 8 <= width <= 4096):
            self.fail(f"{value!r} is not a size such as 640 or 544x960 (height x width), from 8 to 4096", param, ctx)
        return height, width


class _Three(click.ParamType):  # type: ignore[type-arg]
    """A number for all channels, or three with commas."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        try:
            numbers = [float(one) for one in str(value).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3 or not all(abs(one) < 1e6 for one in numbers):
            self.fail(f"{value!r} is neither a number nor three with commas, such as 0.485,0.456,0.406", param, ctx)
        return numbers[0], numbers[1], numbers[2]


class _ClassList(click.ParamType):  # type: ignore[type-arg]
    """`coco`, or a file with class names."""

    name = "FILE or coco"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Classes:
        from dyndet_builder.detectors.sources.class_lists import classes_of_option

        return classes_of_option(str(value))


def _one_of(kind: object) -> click.Choice[str]:
    return click.Choice(get_args(kind), case_sensitive=False)


_FIELDS: dict[str, click.Option] = {
    "size": click.Option(
        ["--size"], type=_Size(), help="Side of the input in pixels, or HEIGHTxWIDTH, such as 544x960."
    ),
    "colour": click.Option(["--colour"], type=_one_of(Colour), help="Order of the colours that the detector expects."),
    "divide_by": click.Option(
        ["--divide-by", "--scale", "divide_by"],
        type=click.FloatRange(min=0, min_open=True, max=1e6),
        help="Divide pixels by this: 255 gives 0..1, 1 leaves 0..255.",
    ),
    "mean": click.Option(
        ["--mean"], type=_Three(), help="Subtract this after the division; one number, or three with commas."
    ),
    "std": click.Option(
        ["--std"], type=_Three(), help="Divide by this after the subtraction; one number, or three with commas."
    ),
    "resize": click.Option(
        ["--resize"], type=_one_of(Resize), help="letterbox: keep the ratio and add borders; stretch: fill the input."
    ),
    "place": click.Option(["--place"], type=_one_of(Place), help="Where a letterboxed picture lies."),
    "pad": click.Option(["--pad"], type=click.IntRange(0, 255), help="Grey level of the borders."),
    "filter": click.Option(
        ["--filter"],
        type=_one_of(Filter),
        help="Filter of the resizing: antialias as Pillow, linear as OpenCV, or cubic.",
    ),
    "classes": click.Option(
        ["--classes"], type=_ClassList(), help="File with class names (text, JSON or YAML), or `coco`."
    ),
    "family": click.Option(
        ["--family"],
        type=_one_of(Family),
        metavar="NAME",
        help=f"Family of the outputs, explained in docs/detectors.md: {', '.join(get_args(Family))}.",
    ),
    "boxes": click.Option(
        ["--boxes"],
        type=_one_of(BoxForm),
        help="Numbers of a box: two corners (xyxy, yxyx), centre and size (cxcywh), or corner and size (xywh).",
    ),
    "unit": click.Option(["--unit"], type=_one_of(Unit), help="Unit of the boxes: pixels of the input, or 0..1."),
    "activation": click.Option(
        ["--activation"], type=_one_of(Activation), help="Function that turns the outputs into scores."
    ),
    "background": click.Option(
        ["--background"], type=_one_of(Background), help="Slot of the class scores that means no object."
    ),
    "class_offset": click.Option(["--class-offset"], type=click.IntRange(-1, 1), help="Number of the first class."),
}


def detector_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that describe one detector; it gets them as the argument `given`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        said = Layer(source=OPTIONS, **{name: options.pop(name) for name in _FIELDS})
        given = Given(said=said, recipe=options.pop("recipe"), spec_file=options.pop("input_spec"))
        return function(*arguments, given=given, **options)

    extra = [
        click.Option(
            ["--input-spec"],
            type=click.Path(path_type=Path),
            help="detector.yaml that describes the detector.  [default: NAME.detector.yaml beside NAME.onnx]",
        ),
        click.Option(
            ["--recipe"],
            type=click.Choice(tuple(RECIPES)),
            metavar="NAME",
            help=f"Prepare pictures (colours, pixels, resizing) as the tools of this maker do: {', '.join(RECIPES)}.",
        ),
    ]
    # click's own decorators put options here; a command reads the list from its end.
    wrapped.__click_params__ = [*getattr(wrapped, "__click_params__", []), *reversed([*extra, *_FIELDS.values()])]  # type: ignore[attr-defined]
    return wrapped


def pair_spec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--small-spec` and `--large-spec`; it gets them as `small_given` and `large_given`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        specs = {f"{which}_given": Given(spec_file=options.pop(f"{which}_spec")) for which in ("small", "large")}
        return function(*arguments, **specs, **options)

    for which in ("large", "small"):
        wrapped = click.option(
            f"--{which}-spec",
            type=click.Path(path_type=Path),
            help=f"detector.yaml of the {which} detector.  [default: NAME.detector.yaml beside NAME.onnx]",
        )(wrapped)
    return wrapped
