"""Damage to files: bytes and JSON that are changed at random places, and what is no file at all."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

TEXTS = (
    "",
    " ",
    "../../escaped",
    "../bundle/head1.onnx",
    "/etc/passwd",
    "a/b",
    ".hidden",
    "-option",
    "two\nlines",
    "nul\0byte",
    "\x1b[31mred\x1b[0m",
    "\u202eright to left",
    "\ud800",
    "$(touch PWNED)",
    "`touch PWNED`",
    "{{ 7 * 7 }}",
    "<script>alert(1)</script>",
    "'; DROP TABLE models; --",
    "x" * 300,
    "x" * 30_000,
    "Größe",
    "nan",
    "0" * 64,
)
VALUES: tuple[Any, ...] = (
    *TEXTS,
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    2**31,
    2**63,
    10**400,
    -(10**30),
    0.5,
    -1e-9,
    1.0000001,
    1e300,
    -1e300,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None] * 2000,
    {"": {}},
    {"__proto__": 1},
)

_INSERTED = ('"a": 1, "a": 2, ', "[" * 5000, "NaN", "1e999", "//", ",", "\ufeff")
_INSERTED_BYTES = (b"\xff\xfe", b"\0", b"\x1b[2J", b"{", b"}", b'"', b"\n", b"\xed\xa0\x80")


def changed_json(valid: bytes, seed: int) -> bytes:
    """The content of a JSON file with a few changes: of its values and keys, or of its bytes."""
    draw = random.Random(seed)
    if draw.random() < 0.25:
        return changed_bytes(valid, seed)
    holder = [json.loads(valid)]
    for _ in range(draw.randint(1, 3)):
        _change(holder, draw)
    text = json.dumps(holder[0])
    if draw.random() < 0.1:
        place = draw.randrange(len(text) + 1)
        text = (
            text[:place]
            + draw.choice(('"a": 1, "a": 2, ', "[" * 5000, "NaN", "1e999", "//", ",", "\ufeff"))
            + text[place:]
        )
    return text.encode("utf-8", "surrogatepass")


def changed_bytes(valid: bytes, seed: int) -> bytes:
    """Bytes that are cut off, flipped, repeated or inserted."""
    draw = random.Random(seed)
    content = bytearray(valid)
    kind = draw.randrange(4)
    if kind == 0:
        return bytes(content[: draw.randrange(len(content))])
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(content))
        if kind == 1:
            content[place] ^= 1 << draw.randrange(8)
        elif kind == 2:
            content[place:place] = draw.choice(
                (b"\xff\xfe", b"\0", b"\x1b[2J", b"{", b"}", b'"', b"\n", b"\xed\xa0\x80")
            )
        else:
            content[place:place] = content[place : place + draw.randint(1, 40)]
    return bytes(content)


def _change(root: list[Any], draw: random.Random) -> None:
    """Drop, replace or insert at a random place of the tree in `root`."""
    places: list[tuple[Any, Any]] = []
    level: list[Any] = [root]
    while level:
        for one in level:
            places += [(one, key) for key in (one if isinstance(one, dict) else range(len(one)))]
        level = [one[key] for one in level for key in (one if isinstance(one, dict) else range(len(one)))]
        level = [one for one in level if isinstance(one, dict | list) and one]
    holder, key = draw.choice(places)
    kind = draw.randrange(4)
    if kind == 0 and holder is not root:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice((*TEXTS, *holder))] = deepcopy(draw.choice((*VALUES, holder[key])))
    elif kind == 2 and type(holder[key]) in (int, float) and abs(holder[key]) < 1e100:
        holder[key] = holder[key] * draw.choice((-1, 0, 1e3, 1e9, 10**20)) + draw.choice((0, 1, 0.5))
    else:
        holder[key] = deepcopy(draw.choice(VALUES))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)  # sparse: it takes no space


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a pipe": _pipe,
    "a folder": Path.mkdir,
    "a link to a device without an end": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "3 GiB of zeros": _large,
    "nothing": Path.touch,
    "deep JSON": lambda path: path.write_text("[" * 100_000),
    "deep objects": lambda path: path.write_text('{"a":' * 100_000),
    "not UTF-8": lambda path: path.write_bytes(b'{"name": "\xff\xfe"}'),
    "a lone surrogate": lambda path: path.write_text('{"name": "\\ud800"}'),
    "NaN": lambda path: path.write_text('{"name": NaN}'),
    "a huge number": lambda path: path.write_text(f'{{"schema_version": {"9" * 10_000}}}'),
    "another type": lambda path: path.write_text("[1, 2, 3]"),
    "an escape sequence": lambda path: path.write_text('{"\\u001b[31mred": 1, "\\n": 2}'),
}
"""What can be in the place of a file: by a name, what puts it there."""
