"""The usual ways in which a detector takes pictures, apart from those that are known already."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

from dynamicdet.letterbox import Fit
from dyndet_builder.bundle.spec import DetectorSpec, InputSpec

Field = Literal["colour", "scale", "resize"]
Scale = Literal["0..1", "0..255", "ImageNet"]
Rule = Literal["letterbox", "top-left", "stretch"]
FIELDS: tuple[Field, ...] = get_args(Field)
_COLOURS: tuple[Literal["RGB", "BGR"], ...] = ("RGB", "BGR")
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_RULE_WORDS = {
    "letterbox": "letterboxed, borders on both sides",
    "top-left": "letterboxed, borders right and below",
    "stretch": "stretched",
}
_RULE_VALUES = {"letterbox": "letterbox (centre)", "top-left": "letterbox (top-left)", "stretch": "stretch"}
"""the values of the options that say them"""
_SCALE_WORDS = {"0..1": "0..1", "0..255": "0..255", "ImageNet": "ImageNet's mean and std"}
OPTIONS: dict[Field, str] = {
    "colour": "--colour",
    "scale": "--divide-by, --mean and --std",
    "resize": "--resize and --place",
}


@dataclass(frozen=True)
class Variant:
    """One way to prepare pictures."""

    colour: Literal["RGB", "BGR"]
    scale: Scale | None
    """None: as the spec says"""
    rule: Rule

    @property
    def text(self) -> str:
        """For a reader."""
        scale = "as given" if self.scale is None else _SCALE_WORDS[self.scale]
        return f"{self.colour}, {scale}, {_RULE_WORDS[self.rule]}"

    def value_of(self, field: Field) -> str:
        """What it says about a field, in a few words for a table."""
        if field == "colour":
            return self.colour
        return _RULE_VALUES[self.rule] if field == "resize" else self.scale or "as given"

    def applied_to(self, spec: DetectorSpec) -> DetectorSpec:
        """The spec of a detector that takes pictures so."""
        changed: dict[str, Any] = {"colour": self.colour, "resize": "letterbox", "place": "centre"}
        if self.rule == "top-left":
            changed["place"] = "top-left"
        elif self.rule == "stretch":
            changed["resize"] = "stretch"
        if self.scale is not None:
            turn = slice(None, None, -1 if self.colour == "BGR" else 1)  # of mean and std, as of the channels
            imagenet = self.scale == "ImageNet"
            changed["divide_by"] = 1.0 if self.scale == "0..255" else 255.0
            changed["mean"] = _MEAN[turn] if imagenet else (0.0, 0.0, 0.0)
            changed["std"] = _STD[turn] if imagenet else (1.0, 1.0, 1.0)
        given = InputSpec.model_validate({**spec.input.model_dump(), **changed})
        return DetectorSpec.model_validate({**spec.model_dump(), "input": given})


def variants_of(spec: DetectorSpec, vary: Collection[Field] = FIELDS) -> tuple[Variant, ...]:
    """All combinations of what `vary` names; the rest is as the spec says.

    A file that takes uint8 prepares the pixels itself, so there is nothing to vary in their scale.
    """
    own_rule: Rule = "stretch" if spec.input.resize == "stretch" else "letterbox"
    if own_rule == "letterbox" and spec.input.place == "top-left":
        own_rule = "top-left"
    has_scale = "scale" in vary and spec.input.dtype != "uint8"
    colours = _COLOURS if "colour" in vary else (spec.input.colour,)
    scales: tuple[Scale | None, ...] = get_args(Scale) if has_scale else (None,)
    if has_scale and not any(is_way_of(spec, Variant(spec.input.colour, scale, own_rule)) for scale in scales):
        scales = (None, *scales)  # one that no other detector has
    rules: tuple[Rule, ...] = get_args(Rule) if "resize" in vary else (own_rule,)
    return tuple(Variant(*one) for one in product(colours, scales, rules))


def is_way_of(spec: DetectorSpec, variant: Variant) -> bool:
    """Whether a detector with this spec takes pictures so."""
    own, tried = spec.input, variant.applied_to(spec).input
    names = ["colour", "divide_by", "mean", "std", "resize", *(["place"] if own.resize == "letterbox" else [])]
    return all(getattr(own, name) == getattr(tried, name) for name in names)


def by_graph(variants: Collection[Variant]) -> Iterator[tuple[Variant, ...]]:
    """Variants that differ only in the rule of fitting, which needs no other graph."""
    groups: dict[tuple[str, str | None], list[Variant]] = {}
    for one in variants:
        groups.setdefault((one.colour, one.scale), []).append(one)
    return (tuple(group) for group in groups.values())


def fits_of(spec: DetectorSpec, variants: Collection[Variant]) -> dict[str, Fit]:
    """The rules of fitting that the variants need."""
    return {one.rule: one.applied_to(spec).input.fit for one in variants}


def settled(close: Collection[Variant], spec: DetectorSpec, vary: Collection[Field]) -> dict[str, Any]:
    """Values of the varied fields, as InputSpec has them, in which all variants agree that cannot be told apart."""
    names = {"colour": ("colour",), "scale": ("divide_by", "mean", "std"), "resize": ("resize", "place")}
    found: dict[str, Any] = {}
    for field in vary:
        values = [{name: getattr(one.applied_to(spec).input, name) for name in names[field]} for one in close]
        if all(one == values[0] for one in values):
            found |= values[0]
    return found
