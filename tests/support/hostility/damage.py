"""Damages valid files as an attacker or a broken disk would: one seed is one damage."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ESCAPE = "\x1b]8;;http://evil.example\x07\x1b[31m\u202e"

_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, 10**30, 10**400, float("nan"), float("inf"),
    "", "0.5", "nan", ESCAPE, "\x00", "\ud800", "../../etc/passwd", "/etc/passwd", "a/../../b", "C:\\b", "..",
    "a" * 30_000, [], {}, [[]], {"": {}}, [1] * 2000, ["x"] * 12_000,
)  # fmt: skip
_BYTES = (
    b"",
    b"\x00",
    b"\xff",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\x1b[31m",
    b",",
    b"\n",
    b'"',
    b"1e999",
    b"NaN",
    b"-",
    b"9" * 5000,
)


def damaged_json(content: str, seed: int) -> bytes:
    """A JSON file with a value replaced, removed, added or doubled, or with damaged bytes."""
    rng = random.Random(seed)
    if rng.random() < 0.3:
        return damaged_bytes(content.encode(), seed)
    root = [json.loads(content)]
    for _ in range(rng.choice((1, 1, 1, 2))):
        _damage(root, rng)
    return json.dumps(root[0]).encode("utf-8", "surrogatepass")


def damaged_bytes(content: bytes, seed: int) -> bytes:
    """A file with a piece cut off, repeated, overwritten or inserted."""
    rng = random.Random(seed)
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    kind = rng.randrange(4)
    if kind == 0:
        return content[:start]
    if kind == 1:
        return content[:end] + content[start:]
    piece = rng.choice(_BYTES)
    return content[:start] + piece + content[start + (len(piece) if kind == 2 else 0) :]


def damaged_words(content: str, seed: int, *, separators: str) -> bytes:
    """A text with one of its words replaced, or with damaged bytes."""
    rng = random.Random(seed)
    if rng.random() < 0.3:
        return damaged_bytes(content.encode(), seed)
    starts = [0, *(place + 1 for place, char in enumerate(content) if char in separators)]
    start = rng.choice(starts)
    end = min((content.find(char, start) for char in separators if char in content[start:]), default=len(content))
    word = str(rng.choice(_VALUES))
    return (content[:start] + word + content[end:]).encode("utf-8", "surrogatepass")


def _damage(root: Any, rng: random.Random) -> None:
    """Walk to a random place below `root`, and change what is there."""
    here = root
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = rng.choice(keys)
        deeper = here[key]
        if not isinstance(deeper, dict | list) or not deeper or rng.random() < 0.15:
            break
        here = deeper
    action = rng.random()
    if action < 0.7:
        here[key] = copy.deepcopy(rng.choice(_VALUES))
    elif action < 0.8 and here is not root:
        del here[key]
    elif isinstance(here, dict):
        here[rng.choice(("strange", "", ESCAPE, "__proto__"))] = copy.deepcopy(deeper)
    else:
        here.append(copy.deepcopy(deeper))
