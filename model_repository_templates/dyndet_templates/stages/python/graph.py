"""The graph of a stage in ONNX Runtime; its masks are a graph of their own, which runs only if they are wanted.

Needs numpy and onnxruntime.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import onnxruntime as ort

MASKS = "masks"


class Graph:
    """The graph in a folder: `model.onnx`, or `boxes.onnx` and `masks.onnx` if both are there."""

    def __init__(self, folder: Path, *, threads: int, spins: bool, gpu: int | None) -> None:
        """Load it for the CPU, or a GPU. `threads` 0: one per core; with `spins` they spin while they wait."""
        is_apart = (folder / "masks.onnx").exists()
        providers = ["CPUExecutionProvider"] if gpu is None else _providers(gpu)
        options = _session_options(threads, spins=spins)
        self._device = ("cpu", 0) if gpu is None else ("cuda", gpu)
        self._session = ort.InferenceSession(
            folder / ("boxes.onnx" if is_apart else "model.onnx"), options, providers=providers
        )
        self._masks: Any = None
        self._passed: list[str] = []
        """what masks are computed from"""
        if is_apart:
            self._masks = ort.InferenceSession(folder / "masks.onnx", options, providers=providers)
            self._passed = [tensor.name for tensor in self._masks.get_inputs()]

    def run(self, wanted: Sequence[str], arrays: Mapping[str, Any]) -> list[Any]:
        """Wanted outputs for arrays (B, ...)."""
        if self._masks is None or MASKS not in wanted:
            found: list[Any] = self._session.run(wanted, arrays)
            return found
        others = [name for name in wanted if name != MASKS]
        passed = [name for name in self._passed if name not in arrays and name not in others]
        given = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        known = {**given, **self._bound(self._session, given, others, kept=passed)}
        known |= self._bound(self._masks, {name: known[name] for name in self._passed}, [MASKS])
        return [known[name].numpy() for name in wanted]

    def _bound(
        self, session: Any, given: Mapping[str, Any], outputs: Sequence[str], *, kept: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Outputs as ONNX Runtime's values in CPU memory, and those in `kept` on the device, without copies."""
        binding = session.io_binding()
        for name, value in given.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu", 0)
        for name in kept:
            binding.bind_output(name, *self._device)
        session.run_with_iobinding(binding)
        return dict(zip([*outputs, *kept], binding.get_outputs(), strict=True))


def _session_options(threads: int, *, spins: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not spins:
        # Threads that spin while they wait take the cores that Triton and the other stages need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(device: int) -> list[Any]:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError(
            "this stage is configured for a GPU, but the server's onnxruntime has no CUDA provider; install "
            "onnxruntime-gpu for the server, or render the repository without --gpu"
        )
    return [("CUDAExecutionProvider", {"device_id": device}), "CPUExecutionProvider"]
