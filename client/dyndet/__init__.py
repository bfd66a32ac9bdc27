"""dyndet: dynamic object detectors on NVIDIA Triton Inference Server. `from dyndet import Detector` asks a server.

`import dyndet` loads nothing; each name imports what it needs at its first use.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyndet_client import (
        AbandonedCalls,
        AccessDeniedError,
        AsyncDetector,
        BadRequestError,
        DeadlineExceededError,
        Detection,
        Detections,
        Detector,
        DyndetError,
        InputError,
        KeepAlive,
        Masks,
        MissingExtraError,
        ModelNotReadyError,
        NoMasksError,
        NotADetectorError,
        OperatingPoint,
        OverloadedError,
        Retries,
        Route,
        ServerError,
        ServerUnreachableError,
        SharedMemoryError,
        Tls,
        TransportChoice,
        UnknownOperatingPointError,
    )

    __version__: str

__all__ = [
    "AbandonedCalls",
    "AccessDeniedError",
    "AsyncDetector",
    "BadRequestError",
    "DeadlineExceededError",
    "Detection",
    "Detections",
    "Detector",
    "DyndetError",
    "InputError",
    "KeepAlive",
    "Masks",
    "MissingExtraError",
    "ModelNotReadyError",
    "NoMasksError",
    "NotADetectorError",
    "OperatingPoint",
    "OverloadedError",
    "Retries",
    "Route",
    "ServerError",
    "ServerUnreachableError",
    "SharedMemoryError",
    "Tls",
    "TransportChoice",
    "UnknownOperatingPointError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("dyndet")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("dyndet_client"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
