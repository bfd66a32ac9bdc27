"""The classes of a pair: which class of one detector is which of the other, by name or as a file says."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, RootModel, ValidationError

from dynamicdet.class_names import MOST_CLASSES, check_class_names
from dynamicdet.errors import InputError
from dynamicdet.records import Label, Record, read_bytes, reason_of
from dynamicdet.text import printable

LEFT_OUT = -1
"""in place of a class number: the objects of this class are left out"""
_LARGEST = 1 << 18
_SHOWN = 5
_ADVICE = "--class-map FILE says which classes are the same"


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[Label, ...], BeforeValidator(_as_list), Field(min_length=1, max_length=MOST_CLASSES)]


class NamesInEach(Record):
    """The names of one public class in each of the detectors; several names become one class."""

    small: Names
    large: Names


def _in_both(value: object) -> object:
    """A name, or a list of names, that both detectors use."""
    return {"small": value, "large": value} if isinstance(value, str | list | tuple) else value


class ClassMap(RootModel[dict[Label, Annotated[NamesInEach, BeforeValidator(_in_both)]]]):
    """Contents of a class map: public names, in the order of their numbers, with the names in each detector.

    Classes of a detector that it does not name are left out.
    """

    model_config = ConfigDict(frozen=True)


ClassPolicy = Literal["same", "shared"] | ClassMap
"""`same`: both detectors must have the same classes; `shared`: the classes that both have; or a map"""


@dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """The public classes of a pair, and the number in them of each class of each detector (`LEFT_OUT`: none)."""

    names: tuple[str, ...]
    small: tuple[int, ...]
    large: tuple[int, ...]

    def left_out(self, own: Sequence[str], numbers: Sequence[int]) -> tuple[str, ...]:
        """The classes of one detector whose objects are left out."""
        return tuple(name for name, number in zip(own, numbers, strict=True) if number == LEFT_OUT)


def match_classes(small: Sequence[str], large: Sequence[str], *, policy: ClassPolicy = "same") -> ClassMatch:
    """Match the class names of two detectors; upper and lower case, spaces, `-` and `_` make no difference.

    The public names and their order are those of the large detector, or those of a map. Raises InputError, which says
    how the classes differ and what can be done, if the policy does not allow them.
    """
    if isinstance(policy, ClassMap):
        return _by_map(small, large, policy.root)
    of_small, of_large = _numbered(small, "small"), _numbered(large, "large")
    shared = [key for key in of_large if key in of_small]
    if not shared:
        raise InputError(
            f"the two detectors have no class in common: the small one finds {_listed(small)}, the large one "
            f"{_listed(large)}; {_ADVICE}"
        )
    only_small = [small[number] for key, number in of_small.items() if key not in of_large]
    only_large = [large[number] for key, number in of_large.items() if key not in of_small]
    if policy == "same" and (only_small or only_large):
        raise InputError(
            f"the two detectors find different classes: {_difference(only_small, only_large)}; --classes shared uses "
            f"only the {len(shared)} that both have, and {_ADVICE}"
        )
    numbers = {key: number for number, key in enumerate(shared)}
    return ClassMatch(
        names=tuple(large[of_large[key]] for key in shared),
        small=tuple(numbers.get(_key(name), LEFT_OUT) for name in small),
        large=tuple(numbers.get(_key(name), LEFT_OUT) for name in large),
    )


def read_class_map(path: Path) -> ClassMap:
    """Read a class map, YAML or JSON. Raises InputError, in one sentence, for anything else.

    Each public name has a name, a list of names, or both lists: `vehicle: {small: [car, truck], large: vehicle}`.
    """
    what = "a class map (`public name: {small: NAME, large: NAME}`)"
    content = read_bytes(path, advice="", largest=_LARGEST)
    try:
        plain = yaml.load(content, Loader=_Texts)
        found = ClassMap.model_validate(plain)
        check_class_names(tuple(found.root))
    except (yaml.YAMLError, ValidationError, ValueError, RecursionError) as error:
        said = _place(error) if isinstance(error, yaml.YAMLError) else reason_of(error)
        raise InputError(f"{printable(path)} is not {what}: {said}") from error
    return found


class _Texts(yaml.BaseLoader):
    """Reads all values as texts, so that a class may be called `no` or `3`, and refuses a key that occurs twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {}
        for key, value in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str) or name in found:
                said = f"the key {printable(name, limit=60)!r} is no text, or occurs twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            found[name] = self.construct_object(value, deep=deep)
        return found


def _place(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
    return printable(f"{problem or 'it is not YAML'}{where}", limit=300)


def _by_map(small: Sequence[str], large: Sequence[str], chosen: Mapping[str, NamesInEach]) -> ClassMatch:
    return ClassMatch(
        names=check_class_names(tuple(chosen)),
        small=_mapped(small, {name: entry.small for name, entry in chosen.items()}, "small"),
        large=_mapped(large, {name: entry.large for name, entry in chosen.items()}, "large"),
    )


def _mapped(own: Sequence[str], chosen: Mapping[str, Sequence[str]], which: str) -> tuple[int, ...]:
    """The public number of each of a detector's classes."""
    known = _numbered(own, which)
    numbers = [LEFT_OUT] * len(own)
    for public, (name, entries) in enumerate(chosen.items()):
        for entry in entries:
            found = known.get(_key(entry))
            if found is None:
                raise InputError(
                    f"the class map gives {_quoted(entry)} for {_quoted(name)}, but the {which} detector has no such "
                    f"class; it finds {_listed(own)}"
                )
            if numbers[found] not in (LEFT_OUT, public):
                raise InputError(f"the class map uses the {which} detector's class {_quoted(entry)} twice")
            numbers[found] = public
    return tuple(numbers)


def _numbered(names: Sequence[str], which: str) -> dict[str, int]:
    """The number of each class by its key. Raises InputError if two names have the same key, or there is none."""
    found: dict[str, int] = {}
    for number, name in enumerate(check_class_names(names)):
        if (before := found.setdefault(_key(name), number)) != number:
            raise InputError(
                f"two classes of the {which} detector differ only in case or spaces: {_quoted(names[before])} and "
                f"{_quoted(name)}; rename one of them in its detector.yaml"
            )
    return found


def _key(name: str) -> str:
    """What is compared of a name; one that has nothing else is compared as it is."""
    return "".join(char for char in name.casefold() if not char.isspace() and char not in "-_") or name


def _difference(only_small: Sequence[str], only_large: Sequence[str]) -> str:
    parts = (("small", only_small), ("large", only_large))
    return " and ".join(f"only the {which} one finds {_listed(names)}" for which, names in parts if names)


def _listed(names: Sequence[str]) -> str:
    shown, more = [_quoted(name) for name in names[:_SHOWN]], len(names) - _SHOWN
    if more > 0:
        return f"{', '.join(shown)} and {more} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _quoted(name: str) -> str:
    return f"'{printable(name, limit=60)}'"
