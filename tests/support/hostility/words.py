"""Texts that mean something to a language, and programs that say what they were given."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import example
from hypothesis import strategies as st

_Test = TypeVar("_Test", bound=Callable[..., Any])

_SHELL = ("$(touch canary)", "`touch canary`", "${HOME}", "$HOME", "$$", "'", '"', "\\", "!x", ";", "&", "| ", "~", "=")
_TEMPLATES = ("{{ $labels.x }}", "{{", "}}", "{", "[[x]]", "<<.X>>", "%s", "%", "PROBE\n", "\nPYTHON\n")
_YAML = ("#", " #", "---", "...", "*a", "&a", "yes", "null", "1e3", "0x1", "2026-01-01", "!!python/none ", ": ", "- ")
_UNSEEN = ("\n", "\r", "\t", "\x85", "\u2028", "\x1b[31m", "\x07", "\x7f", "\u202e", "\ufeff", " ", "  ")
_MARKUP = ("1. ", "+", "@", "_a_", "**b**", "<b>", "</script>", "]]>", "&amp;", "[a](b)", "![a](b)", "~~a~~", "$x^2$")
FRAGMENTS = (*_SHELL, *_TEMPLATES, *_YAML, *_UNSEEN, *_MARKUP, "https://x.y", "www.x.y", "\U0001f600", "ß")
texts = st.lists(st.text() | st.sampled_from(FRAGMENTS), max_size=6).map("".join)
"""All of Unicode but surrogates, with more of what languages react to"""


def with_fragments(test: _Test) -> _Test:
    """Also give each fragment to a property test of one text, alone and before others."""
    for fragment in FRAGMENTS:
        test = example(f"{fragment} b")(example(fragment)(test))
    return test


PRINTABLE = "a b'\"$(touch canary)`touch canary`${HOME}{{ $labels.x }}</script>\\ %s # * [[x]] \U0001f600"
"""printable, and active in every language"""
ANY = f"{PRINTABLE}\n$(touch canary)\r\x85\u2028\x1b[31m"
"""the same with all kinds of line breaks, and what a terminal obeys"""

_TELLS = '#!/bin/bash\nprintf "%s\\0" "${0##*/}" "$@" >>"$TOLD"\nprintf "\\0" >>"$TOLD"\n'


def run_told(script: str, folder: Path, *programs: str) -> list[list[str]]:
    """Run a script with bash in a folder; these programs do nothing but tell their words, which are returned."""
    stubs, told = folder / "stubs", folder / "told"
    stubs.mkdir(exist_ok=True)
    told.unlink(missing_ok=True)
    for name in programs:
        (stubs / name).write_text(_TELLS)
        (stubs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}", "TOLD": str(told), "LC_ALL": "C.UTF-8"}
    subprocess.run(["bash", "-euc", script], cwd=folder, env=environment, check=True, capture_output=True)
    assert not list(folder.rglob("canary*"))
    calls = told.read_bytes().decode("utf-8", "surrogateescape").split("\0\0")[:-1] if told.exists() else []
    return [call.split("\0") for call in calls]
