"""The graphs of a detector in one process: features stay in the memory where they were computed.

ONNX Runtime's I/O binding keeps them on the device, a GPU or the CPU, without copies. Needs numpy and onnxruntime.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort
from tracing import stage_span  # type: ignore[import-not-found]

DIFFICULTY, IMAGE, MASKS, ROWS = "difficulty", "image", "masks", "rows"
_MASKS_OF = "{}_masks"
"""name of the graph that computes the masks of a stage"""


class StageError(Exception):
    """A stage failed; `stage` says which."""

    code = "stage-failed"

    def __init__(self, stage: str, error: Exception) -> None:
        super().__init__(f"stage {stage} failed: {type(error).__name__}: {error}")
        self.stage = stage


class Stages:
    """Sessions of the stages; two threads must not use them at the same time. `seconds` adds up the time in each.

    Of a stage whose masks are a graph of their own, that graph runs only if masks are wanted.

    With a `shared_pool`, the graphs take turns with the same threads, which spin while they wait: this takes 0.8 to
    0.85 x the time of one pool per graph (2 cores). Several instances would take each other's cores that way, so
    without it each graph has its own threads, which sleep while they wait. `threads` 0: one per core.
    """

    def __init__(
        self, folder: Path, stages: Mapping[str, Any], *, threads: int, shared_pool: bool, gpu: int | None
    ) -> None:
        options = ort.SessionOptions()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if shared_pool and hasattr(ort, "set_global_thread_pool_sizes"):
            ort.set_global_thread_pool_sizes(threads or len(os.sched_getaffinity(0)), 1)
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = threads
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._device = ("cpu", 0) if gpu is None else ("cuda", gpu)
        providers = ["CPUExecutionProvider"] if gpu is None else _cuda(gpu)
        self._inputs = {name: tuple(stage["inputs"]) for name, stage in stages.items()}
        self._features = {name for inputs in self._inputs.values() for name in inputs} - {IMAGE}
        self._one_by_one = {name for name, stage in stages.items() if stage["batch"] == "one"}
        self._apart = {name for name in stages if (folder / f"{name}_masks.onnx").exists()}
        files = {name: f"{name}_boxes" if name in self._apart else name for name in (*stages, "select")}
        files |= {_MASKS_OF.format(name): f"{name}_masks" for name in self._apart}
        self._sessions = {
            name: ort.InferenceSession(folder / f"{file}.onnx", options, providers=providers)
            for name, file in files.items()
        }
        for name in ("select", *map(_MASKS_OF.format, self._apart)):
            self._inputs[name] = tuple(tensor.name for tensor in self._sessions[name].get_inputs())
        self._bindings = {name: session.io_binding() for name, session in self._sessions.items()}
        self.seconds = dict.fromkeys(stages, 0.0)

    def given(self, images: Any) -> dict[str, Any]:
        """Images (B, H, W, 3) as an input of a stage."""
        return {IMAGE: ort.OrtValue.ortvalue_from_numpy(images, *self._device)}

    def first(self, stage: str, images: Any, wanted: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Wanted outputs of the first stage as arrays (B, ...), and what other stages read: images and features."""
        given = self.given(images)
        if stage in self._one_by_one and len(images) > 1:  # has no features, as all stages of others
            parts = [self.first(stage, images[row : row + 1], wanted)[0] for row in range(len(images))]
            return _joined(parts), given
        kept = tuple(name for name in wanted if name in self._features)
        found = self._run(stage, given, wanted, kept=kept)
        given |= {name: found.pop(name) for name in kept}
        return {name: value.numpy() for name, value in found.items()}, given

    def detector(self, stage: str, given: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
        """Wanted outputs of a later stage as arrays (B, ...)."""
        if stage in self._one_by_one and (images := given[IMAGE].shape()[0]) > 1:
            return _joined([self.detector(stage, self.select(given, [row]), wanted) for row in range(images)])
        return {name: value.numpy() for name, value in self._run(stage, given, wanted).items()}

    def select(self, given: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """Some of the images and features from the first stage; they do not leave the device."""
        picked = ort.OrtValue.ortvalue_from_numpy(np.array(rows, np.int64), *self._device)
        names = [name for name in given if name in self._inputs["select"]]
        chosen = self._run_session("select", {**given, ROWS: picked}, [f"{name}_selected" for name in names], names)
        return dict(zip(names, chosen, strict=True))

    @stage_span  # type: ignore[untyped-decorator]
    def _run(
        self, stage: str, given: Mapping[str, Any], wanted: Sequence[str], kept: Sequence[str] = ()
    ) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            inputs = {name: given[name] for name in self._inputs[stage]}
            if MASKS in wanted and stage in self._apart:
                return self._run_apart(stage, inputs, wanted)
            return dict(zip(wanted, self._run_session(stage, inputs, wanted, kept), strict=True))
        except Exception as error:
            raise StageError(stage, error) from error
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def _run_apart(self, stage: str, inputs: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
        """Boxes, then masks from what they were computed from, which stays on the device."""
        others, head = [name for name in wanted if name != MASKS], _MASKS_OF.format(stage)
        passed = [name for name in self._inputs[head] if name not in inputs and name not in others]
        found = dict(zip([*others, *passed], self._run_session(stage, inputs, [*others, *passed], passed), strict=True))
        known = {**inputs, **found}
        (masks,) = self._run_session(head, {name: known[name] for name in self._inputs[head]}, [MASKS], ())
        return {name: masks if name == MASKS else found[name] for name in wanted}

    def _run_session(
        self, session: str, inputs: Mapping[str, Any], outputs: Sequence[str], kept: Sequence[str]
    ) -> list[Any]:
        """Outputs as ONNX Runtime's values: those in `kept` stay on the device, the others go to CPU memory."""
        binding = self._bindings[session]
        try:
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name in outputs:
                on_device = name in kept or name.removesuffix("_selected") in kept
                binding.bind_output(name, *(self._device if on_device else ("cpu", 0)))
            self._sessions[session].run_with_iobinding(binding)
            return list(binding.get_outputs())
        finally:  # nothing outlives its request
            binding.clear_binding_inputs()
            binding.clear_binding_outputs()


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cuda(device: int) -> list[Any]:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError(
            "this detector is configured for a GPU, but the server's onnxruntime has no CUDA provider; install "
            "onnxruntime-gpu for the server, or render the repository without --gpu"
        )
    return [("CUDAExecutionProvider", {"device_id": device}), "CPUExecutionProvider"]
