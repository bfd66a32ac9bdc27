"""Sessions of ONNX Runtime on the CPU, silent, with errors of one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dynamicdet.cores import graph_threads
from dynamicdet.errors import InputError
from dynamicdet.text import printable

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import onnxruntime

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

_FATAL = 4
"""severity: ONNX Runtime writes errors to the terminal itself, with names from the files, and raises them as well"""
onnxruntime.set_default_logger_severity(_FATAL)


def session_of(
    graph: Path | bytes, *, name: str = "", threads: int | None = None, frugal: bool = False, plain: bool = False
) -> Any:
    """A session of a file or of a serialized model; `threads` None: as many as it may use.

    By default it holds on to the memory that it once needed, which is faster. `frugal` gives it back. `plain`
    leaves out what changes the layout of tensors for a processor. `name` stands for
    the graph in messages; by default that is the file. Raises InputError for a graph that ONNX Runtime does not load.
    """
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = not frugal
    options.log_severity_level = _FATAL
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if count := graph_threads(threads or 0):
        options.intra_op_num_threads = count
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a graph that has the right tensors can still be no graph
        shown = name or (printable(graph) if isinstance(graph, Path) else "the graph")
        raise InputError(f"ONNX Runtime cannot load {shown}: {_reason(error)}") from error


def run_session(session: Any, tensors: Mapping[str, Array], *, name: str) -> Tensors:
    """All outputs by name; `name` stands for the graph in messages.

    The inputs are taken from `tensors`, those with a default only if they are there.

    Raises InputError if ONNX Runtime cannot run the graph with them.
    """
    feed = {value.name: tensors[value.name] for value in session.get_inputs()}
    defaults = (value.name for value in session.get_overridable_initializers())
    feed |= {name: tensors[name] for name in defaults if name in tensors}
    names = [value.name for value in session.get_outputs()]
    try:
        answer = session.run(names, feed)
    except Exception as error:  # ONNX Runtime's own classes have no common base
        raise InputError(f"ONNX Runtime cannot run {name}: {_reason(error)}") from error
    return dict(zip(names, answer, strict=True))


def _reason(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0], limit=300)
