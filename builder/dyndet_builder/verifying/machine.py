"""The parts of this machine that decide how a detector runs: driver, CUDA, ONNX Runtime's providers, TensorRT."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from dynamicdet.errors import DyndetError, MissingExtraError
from dynamicdet.text import printable
from dyndet_bench.measuring.machine import query_gpus
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_builder.server.embedded import find_server
from dyndet_builder.verifying.record import Part


def parts() -> tuple[Part, ...]:
    """All parts; one that cannot be looked for counts as missing."""
    return tuple(
        _part(name, look)
        for name, look in (
            ("GPU and driver", _gpus),
            ("CUDA of PyTorch", _torch_cuda),
            ("ONNX Runtime", _onnxruntime),
            ("TensorRT", _tensorrt),
            ("Triton, embedded", lambda: find_server().version),
            ("perf_analyzer", lambda: find_perf_analyzer().version),
        )
    )


def providers() -> tuple[str, ...]:
    """Names of ONNX Runtime's providers here."""
    return tuple(_module("onnxruntime").get_available_providers())


def _part(name: str, look: Callable[[], str]) -> Part:
    try:
        return Part(name=name, present=True, detail=printable(look(), limit=300))
    except DyndetError as error:
        return Part(name=name, present=False, detail=printable(str(error).partition("; `")[0], limit=300))
    except Exception as error:  # a broken part of the machine does not hide the others
        return Part(name=name, present=False, detail=printable(f"cannot be looked at: {error}", limit=300))


def _gpus() -> str:
    rows = query_gpus("name", "driver_version", "compute_cap", "memory.total")
    return "; ".join(
        f"GPU {number}: {name}, driver {driver}, compute capability {capability}, {memory}"
        for number, (name, driver, capability, memory) in enumerate(rows)
    )


def _torch_cuda() -> str:
    torch = _module("torch")
    if torch.version.cuda is None or not torch.cuda.is_available():
        raise MissingExtraError(f"PyTorch {torch.__version__} sees no CUDA device")
    return f"CUDA {torch.version.cuda}, PyTorch {torch.__version__}"


def _onnxruntime() -> str:
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers())
    return f"{_module('onnxruntime').__version__} with {names}"


def _tensorrt() -> str:
    return str(_module("tensorrt").__version__)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"the Python module {name} is not installed") from error
