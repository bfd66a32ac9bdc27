"""Lists of class names: files of a user, lists inside metadata, and the word `coco`."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamicdet.class_names import COCO, check_class_names
from dynamicdet.errors import InputError
from dynamicdet.records import UNREADABLE, plain_of, read_bytes
from dynamicdet.text import printable
from dyndet_builder.detectors.layers import Classes
from dyndet_builder.detectors.sources.yaml_files import yaml_of

_LARGEST = 4 << 20
_LONGEST = 400_000
_BLANK = {"", "n/a", "na", "none", "null", "background", "__background__", "no object", "unused"}
"""names of slots that hold no class"""
_ACCEPTED = "a text file with a name on each line, a list or `names` in JSON or YAML, or COCO annotations"


def classes_of_option(value: str) -> Classes:
    """The classes that `--classes` names: `coco`, or a file.

    Raises InputError for a file that holds no class names.
    """
    path = Path(value)
    if value.lower() == "coco" and not path.exists():
        return Classes(names=COCO)
    return classes_of_file(path)


def classes_of_file(path: Path) -> Classes:
    """The classes in a file: names on lines, a list or a mapping in JSON or YAML, `names` of YOLO, COCO annotations.

    Raises InputError, in one sentence, if it holds none.
    """
    content = read_bytes(path, advice=f"accepted are {_ACCEPTED}", largest=_LARGEST)
    try:
        if path.suffix.lower() == ".json":
            return classes_of(_names_in(plain_of(content)))
        if path.suffix.lower() in (".yaml", ".yml"):
            return classes_of(_names_in(yaml_of(content)))
        lines = content.decode("utf-8-sig").splitlines()
        return classes_of([line.strip() for line in lines if line.strip()])
    except UNREADABLE as error:
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else printable(error, limit=200)
        raise InputError(f"{printable(path)} holds no class names: {reason}; accepted are {_ACCEPTED}") from error


def classes_of_text(text: str) -> Classes:
    """The classes in metadata: JSON, or a list or dictionary as Python writes it. Raises ValueError for others."""
    if len(text) > _LONGEST:
        raise ValueError(f"the list of classes has {len(text):,} characters")
    try:
        content = plain_of(text.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        try:
            content = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise ValueError("the list of classes is neither JSON nor a list of Python") from error
    return classes_of(content)


def classes_of(names: Any) -> Classes:
    """The classes of a list, or of a mapping of slots to names, without slots that hold no class.

    Raises ValueError for what is neither, and for names that are not accepted.
    """
    if isinstance(names, Mapping):
        slots = {_slot(key): name for key, name in names.items()}
    elif isinstance(names, Sequence) and not isinstance(names, str | bytes):
        slots = dict(enumerate(names))
    else:
        raise ValueError("it is neither a list of names nor numbers with names")
    found = {slot: name for slot, name in sorted(slots.items()) if str(name).strip().lower() not in _BLANK}
    ids = tuple(found)
    checked = check_class_names([str(name) if isinstance(name, int) else name for name in found.values()])
    return Classes(names=checked, ids=None if ids == tuple(range(len(ids))) else ids)


def _slot(key: Any) -> int:
    if isinstance(key, bool) or not isinstance(key, int | str) or not str(key).isdecimal() or int(key) > 9999:
        raise ValueError(f"{printable(key, limit=40)!r} is not the number of a class")
    return int(key)


def _names_in(content: Any) -> Any:
    """The list in the content of a file: itself, `names`, `classes` or `id2label`, or the categories of COCO."""
    if not isinstance(content, Mapping):
        return content
    for key in ("names", "classes", "class_names", "id2label"):
        if key in content:
            return content[key]
    categories = content.get("categories")
    if isinstance(categories, list):
        if not all(isinstance(one, Mapping) and "id" in one and "name" in one for one in categories):
            raise ValueError("its categories have no id or no name")
        return {one["id"]: one["name"] for one in categories}
    return content
