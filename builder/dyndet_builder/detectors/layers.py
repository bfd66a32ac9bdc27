"""What one source says about a detector, and what no source says: values found, and questions that stay open.

Sources are options, `detector.yaml`, files beside the ONNX file, its metadata and its graph. The first that says
something wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dynamicdet.class_names import COCO
from dynamicdet.letterbox import Filter, Place, Resize
from dyndet_builder.bundle.spec import Activation, Background, BoxForm, Colour, Family, Unit

Triple = tuple[float, float, float]

OPTIONS = "the options"
"""the source of what a user says"""

COCO_IDS = tuple(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""numbers that COCO's annotations give to its 80 classes; ten of the 90 are not used"""


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Names of classes, and their slots where these are not 0, 1, 2, ..."""

    names: tuple[str, ...]
    ids: tuple[int, ...] | None = None

    @property
    def slots(self) -> int:
        """How many slots these classes need."""
        return len(self.names) if self.ids is None else max(self.ids) + 1

    @property
    def are_coco(self) -> bool:
        """Whether these are the 80 classes of COCO, in their order; some names have several spellings."""
        known = sum(_plain(one) == _plain(other) for one, other in zip(self.names, COCO, strict=False))
        return len(self.names) == len(COCO) and known >= 70

    def at(self, ids: Sequence[int]) -> Classes:
        """The same names in other slots."""
        return Classes(names=self.names, ids=tuple(ids))


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one source says; None where it says nothing."""

    source: str
    """for a message: an option, a file, or the metadata"""
    size: tuple[int, int] | None = None
    """height, width"""
    colour: Colour | None = None
    divide_by: float | None = None
    mean: Triple | None = None
    std: Triple | None = None
    resize: Resize | None = None
    place: Place | None = None
    pad: int | None = None
    filter: Filter | None = None
    classes: Classes | None = None
    family: Family | None = None
    boxes: BoxForm | None = None
    unit: Unit | None = None
    activation: Activation | None = None
    background: Background | None = None
    class_offset: int | None = None
    licence: str | None = None

    @property
    def says(self) -> dict[str, Any]:
        """What it says, by field."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "source"}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A value, and the source that said it."""

    value: Any
    source: str


def first(layers: Sequence[Layer], name: str) -> Found | None:
    """What the first source says that says something about the field; None if none does."""
    for layer in layers:
        if (value := getattr(layer, name)) is not None:
            return Found(value=value, source=layer.source)
    return None


@dataclass(frozen=True, kw_only=True)
class Question:
    """What no source tells."""

    field: str
    """of `detector.yaml`, such as `input.colour`; `input.scale` stands for divide_by, mean and std"""
    text: str
    """what is not known, in one sentence"""
    option: str
    """that answers it, such as `--colour`"""
    choices: tuple[str, ...] = ()
    likely: str | None = None
    """the choice that exports of this form usually need; never taken in silence"""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a user says. It wins over all that is found."""

    said: Layer = field(default_factory=lambda: Layer(source=OPTIONS))
    """by single options"""
    recipe: str | None = None
    """name of a known preparation; single options win over it"""
    spec_file: Path | None = None
    """a `detector.yaml`; None: `NAME.detector.yaml` beside `NAME.onnx`, if it exists"""
