"""Reads JSON files that others may have written: every field has a type, a pattern or a range, and every file a size.

The types here are for the fields of such records. They accept what dyndet itself writes, and nothing that could mean
something to a shell, a path, a terminal or a template.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)
from pydantic.errors import PydanticInvalidForJsonSchema

from dynamicdet.errors import InputError
from dynamicdet.text import printable

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
"""pattern of names: of detectors, models, tensors, operating points, and of files without a folder"""

LONGEST_NAME = 200
"""characters; file systems take 255 bytes, and names get endings"""

LARGEST = 64 << 20
"""bytes; larger files are not read"""

_LONGEST_TEXT = 20_000
_LONGEST_PLACE, _LONGEST_VALUE, _LONGEST_REASON = 150, 60, 400
"""characters"""
_READ = 200
"""characters of a text, which may have millions, that are looked at to show fewer"""
_KEY = "[key]"
"""ends pydantic's place of a fault in a key"""
_WORDS = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "none_required": "null",
    "string_type": "a text",
    "tuple_type": "a list",
}
"""what is accepted, by pydantic's kind of fault"""
_SENTENCES = {
    "extra_forbidden": "this key is not known",
    "missing": "this key is missing",
}
_BOUND = re.compile(r"Input should be ((?:greater|less) than .*)")
_SPOT = re.compile(r"at line (\d+) column (\d+)")

_Schema = Mapping[str, Any]
_LARGEST_NUMBER = 1e18
_DEEPEST, _MOST_VALUES = 10, 100_000


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("the text has characters that cannot be printed")
    return text


def _text(text: str, info: ValidationInfo) -> str:
    """Refuse in a file what cannot be printed; what this program itself is about to write is made printable."""
    if info.mode != "json":
        return printable(text, limit=_LONGEST_TEXT)
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"the text has more than {_LONGEST_TEXT:,} characters")
    return _check_printable(text)


def _plain(value: Any) -> Any:
    """Check data of any form: its depth and size, and that texts can be printed and numbers are finite."""
    left = _MOST_VALUES
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        left -= len(level)
        if left < 0:
            raise ValueError(f"it has more than {_MOST_VALUES:,} values")
        for one in level:
            _check_leaf(one)
        level = [child for one in level for child in _children(one)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list | tuple) else ()


def _check_leaf(value: Any) -> None:
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT:
            raise ValueError(f"a text has more than {_LONGEST_TEXT:,} characters")
        _check_printable(value)
    elif isinstance(value, int | float) and not abs(value) < _LARGEST_NUMBER:  # NaN is not below anything
        raise ValueError("a number is not finite, or too large")


Name = Annotated[str, StringConstraints(pattern=NAME, max_length=LONGEST_NAME)]
"""a name that is also safe as a file name"""
FileName = Annotated[str, StringConstraints(pattern=NAME, max_length=240)]
"""a file or folder beside the record, without a path; it can be a name with an ending"""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""64 hexadecimal digits"""
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+!-]+$", max_length=100)]
"""of a package or a program"""
Label = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_check_printable)]
"""a short printable text, such as a class name"""
Text = Annotated[str, AfterValidator(_text)]
"""a printable text, such as a command or a warning; a new record makes it printable, a file must hold it so"""
Plain = Annotated[Any, AfterValidator(_plain)]
"""data of any form, but of bounded depth and size, with printable texts and finite numbers"""
Count = Annotated[int, Field(ge=0, le=10**12)]
Ordinal = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""a whole number from 1"""
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
"""a finite number above 0: milliseconds, images per second"""
NotNegative = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""a share, a threshold or a difficulty"""


class Record(BaseModel):
    """Base of the records in files: frozen; unknown fields and numbers that are not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Read = TypeVar("Read", bound=BaseModel)

UNREADABLE = (ValidationError, ValueError, RecursionError, OverflowError)
"""what pydantic and json raise for content that others wrote; OverflowError for a whole number beyond every float"""


def read_record(path: Path, kind: type[Read], *, described: str, advice: str, largest: int = LARGEST) -> Read:
    """Read a record from a JSON file that others may have written.

    `described` says what the file should be ("a bundle of schema version 1"), `advice` what to do if it is not. Raises
    InputError, in one sentence of printable characters, if the file is missing, not a regular file, larger than
    `largest` bytes, or if its content does not fit `kind`.
    """
    return record_of(read_bytes(path, advice=advice, largest=largest), kind, path, described=described, advice=advice)


def record_of(content: bytes, kind: type[Read], title: object, *, described: str, advice: str) -> Read:
    """The record in the content of a file that others may have written; `title` names the file in an error.

    Raises InputError, in one sentence of printable characters, if the content does not fit `kind`, or if an object in
    it has a key twice.
    """
    try:
        found = kind.model_validate_json(content, strict=True)
        plain_of(content)  # after the check of the schema, which bounds what this builds
    except UNREADABLE as error:
        raise InputError(f"{printable(title)} is not {described}: {reason_of(error, kind)}{_after(advice)}") from error
    return found


def plain_of(content: bytes) -> Any:
    """JSON as plain data. Raises ValueError for a key that occurs twice, and for NaN and infinity."""
    try:
        return json.loads(content, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON at line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {printable(name, limit=60)!r} occurs twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def read_bytes(path: Path, *, advice: str, largest: int = LARGEST) -> bytes:
    """The content of a file that others may have written.

    Raises InputError, with `advice`, if it is missing, not a regular file (a pipe would block for ever), unreadable, or
    larger than `largest` bytes.
    """
    try:
        check_regular(path, advice=advice, largest=largest)
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{printable(path)} cannot be read: {_reason(error)}{_after(advice)}") from error
    if len(content) > largest:  # files of the system have no size
        raise InputError(f"{printable(path)} is too large: at most {largest:,} bytes are read{_after(advice)}")
    return content


def check_regular(path: Path, *, advice: str, largest: int) -> None:
    """Raise InputError, with `advice`, if a path is not a file, or if the file has more than `largest` bytes."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(path)} cannot be read: {_reason(error)}{_after(advice)}") from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{printable(path)} is not a regular file{_after(advice)}")
    if found.st_size > largest:
        raise InputError(
            f"{printable(path)} is too large: it has {found.st_size:,} bytes, and at most {largest:,} are read"
            f"{_after(advice)}"
        )


def _after(advice: str) -> str:
    return f"; {advice}" if advice else ""


def _reason(error: OSError | ValueError) -> str:
    return printable((error.strerror if isinstance(error, OSError) else None) or error, limit=300)


def reason_of(error: Exception, kind: type[BaseModel] | None = None) -> str:
    """Why content was refused, for a message: the first fault, its place, and what is accepted; printable and short.

    `kind`, the record that was expected, makes a range whole: pydantic names only the end of it that was passed.
    """
    if isinstance(error, OverflowError):
        return "a number is too large"
    if not isinstance(error, ValidationError):
        text = str(error) or type(error).__name__
        return printable("it is nested too deep" if isinstance(error, RecursionError) else text, limit=300)
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "json_invalid":
        return _of_json(fault["msg"])
    return printable(_sentence(fault["type"], fault["loc"], fault, kind), limit=_LONGEST_REASON)


def _sentence(name: str, loc: Sequence[int | str], fault: Mapping[str, Any], kind: type[BaseModel] | None) -> str:
    place, context = _place(loc), fault.get("ctx", {})
    if name == "value_error":
        return f"{place}: {fault['msg'].removeprefix('Value error, ')}"
    if name in _SENTENCES:
        return f"{place}: {_SENTENCES[name]}"
    if name in ("too_long", "too_short"):
        bound = f"at most {context['max_length']:,}" if name == "too_long" else f"at least {context['min_length']:,}"
        found = context.get("actual_length")
        return f"{place} has {'too many' if found is None else f'{found:,}'} entries; {bound} are accepted"
    if name in ("string_too_long", "string_too_short"):
        is_long = name == "string_too_long"
        bound = f"more than {context['max_length']:,}" if is_long else f"fewer than {context['min_length']:,}"
        return f"{place} has {bound} characters, which is not accepted"
    return f"{place} is {_value(fault['input'])}; {_accepted(name, loc, fault, kind)} is accepted"


def _accepted(name: str, loc: Sequence[int | str], fault: Mapping[str, Any], kind: type[BaseModel] | None) -> str:
    context, message = fault.get("ctx", {}), str(fault["msg"])
    bound = _BOUND.fullmatch(message)
    if (bound or "number" in _WORDS.get(name, "")) and kind is not None and (found := _range(kind, loc)):
        return found
    if bound:
        return f"a number {bound[1]}"
    if name == "string_pattern_mismatch":
        return f"a text of the form {context['pattern']}"
    if name in ("literal_error", "enum"):
        return str(context["expected"])
    return _WORDS.get(name, message.removeprefix("Input should be "))


def _place(loc: Sequence[int | str]) -> str:
    if loc[-1:] == (_KEY,):
        return f"a key of {_place(loc[:-2])}"
    return printable(".".join(str(part)[:_READ] for part in loc) or "the file", limit=_LONGEST_PLACE)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    try:
        text = json.dumps(value[:_READ] if isinstance(value, str) else value, ensure_ascii=False)
    except (TypeError, ValueError):  # a whole number can have more digits than Python writes
        text = f"of the type {type(value).__name__}"
    return printable(text, limit=_LONGEST_VALUE)


def _of_json(message: str) -> str:
    if "recursion" in message:
        return "it is nested too deep"
    spot = _SPOT.search(message)
    where = f" at line {spot[1]}, column {spot[2]}" if spot else ""
    return f"it ends{where}, before it is complete" if "EOF" in message else f"it is not JSON{where}"


def _range(kind: type[BaseModel], loc: Sequence[int | str]) -> str | None:
    """What the schema of a record accepts as a number at a place; None if it has no range there."""
    try:
        root = kind.model_json_schema()
    except PydanticInvalidForJsonSchema:  # it has a type that JSON Schema cannot say
        return None
    nodes = list(_options(root, root))
    for part in loc:
        nodes = [option for node in nodes for child in _inner(node, part) for option in _options(root, child)]
    for node in nodes:
        low, above, high = (node.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
        if high is None or (low is None and above is None):
            continue
        noun = "a whole number" if node.get("type") == "integer" else "a number"
        return f"{noun} {f'from {low:,.15g} to' if above is None else f'above {above:,.15g} and at most'} {high:,.15g}"
    return None


def _options(root: _Schema, node: _Schema) -> Iterator[_Schema]:
    """A part of a JSON schema without references and alternatives."""
    if "$ref" in node:
        yield from _options(root, root["$defs"][node["$ref"].rpartition("/")[2]])
    elif "anyOf" in node or "oneOf" in node:
        for option in node.get("anyOf", node.get("oneOf")):
            yield from _options(root, option)
    else:
        yield node


def _inner(node: _Schema, part: int | str) -> Iterable[_Schema]:
    if isinstance(part, int):
        before = node.get("prefixItems", ())
        found = (before[part] if part < len(before) else node.get("items"),)
    elif part in node.get("properties", {}):
        found = (node["properties"][part],)
    else:
        found = (node.get("additionalProperties"), *node.get("patternProperties", {}).values())
    return [child for child in found if isinstance(child, Mapping)]


def inside(folder: Path, name: str) -> Path:
    """The file or folder `name` in a folder that others wrote.

    Raises InputError if the name is not a bare one, or if it is a link that leaves the folder.
    """
    path = folder / name
    if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
        raise InputError(f"{printable(name)!r} is not the name of a file in {printable(folder)}")
    check_inside(folder, path)
    return path


def check_inside(folder: Path, path: Path) -> None:
    """Raise InputError if a path in a folder that others wrote leads out of the folder over a link."""
    try:
        leaves = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        leaves = True
    if leaves:
        raise InputError(f"{printable(path)} is a link that leaves its folder; put the file itself there")
