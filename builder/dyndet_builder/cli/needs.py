"""Which extras a command needs, and what it says where a package of theirs is not installed."""

from __future__ import annotations

from collections.abc import Sequence

from dynamicdet.extras import missing_package

_ALL = ("bench", "build", "server")

NEEDS = {
    "bench client": ("bench", "server"),
    "bench compare": (),
    "bench frontier": _ALL,
    "bench load": ("bench", "server"),
    "bench masks": ("bench", "server"),
    "bench overhead": ("bench", "server"),
    "bench paper": ("bench",),
    "bench plot": ("bench",),
    "bench serving": _ALL,
    "bench sweep": ("bench",),
    "build": _ALL,
    "calibrate": ("bench",),
    "compose": ("build",),
    "data": (),
    "demo": _ALL,
    "deploy": ("build",),
    "detect": (),
    "doctor": (),
    "engines": ("build",),
    "evaluate": ("train",),
    "export": ("build",),
    "follow": ("server",),
    "info": ("build",),
    "inspect": ("build",),
    "pair": ("build",),
    "quantize": ("build",),
    "render": ("build",),
    "serve": ("server",),
    "tenant": ("server",),
    "train detectors": ("train",),
    "train router": ("train",),
    "try": ("server", "ui"),
    "tune": _ALL,
    "verify": ("bench", "build"),
}
"""With these extras alone, a command runs. Some of its options need more: `dyndet bench sweep` needs `server` without
--url; with --data it needs `build` or `train`, and so does `dyndet bench load`."""


def explained(error: Exception, words: Sequence[str]) -> Exception:
    """The error that a user sees for one of a command: that of a missing package names the extra that brings it."""
    if not isinstance(error, ModuleNotFoundError):
        return error
    names = [word for word in words if not word.startswith("-")]
    command = next((known for known in (" ".join(names[:2]), " ".join(names[:1])) if known in NEEDS), "")
    return missing_package(f"dyndet {command}".strip(), error, among=NEEDS.get(command, ())) or error
