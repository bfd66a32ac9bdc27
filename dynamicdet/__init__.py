"""Dynamic object detectors: networks, checkpoints, training and routing mathematics.

`import dynamicdet` does not load torch; the names below import what they need at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamicdet.networks.checkpoints import load, load_static, save
    from dynamicdet.networks.network import (
        DynamicDetector,
        StaticDetector,
        TwoStageDetector,
        create,
        create_static,
    )

__all__ = [
    "DynamicDetector",
    "StaticDetector",
    "TwoStageDetector",
    "create",
    "create_static",
    "load",
    "load_static",
    "save",
]

_HOMES = {
    "DynamicDetector": "dynamicdet.networks.network",
    "StaticDetector": "dynamicdet.networks.network",
    "TwoStageDetector": "dynamicdet.networks.network",
    "create": "dynamicdet.networks.network",
    "create_static": "dynamicdet.networks.network",
    "load": "dynamicdet.networks.checkpoints",
    "load_static": "dynamicdet.networks.checkpoints",
    "save": "dynamicdet.networks.checkpoints",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
