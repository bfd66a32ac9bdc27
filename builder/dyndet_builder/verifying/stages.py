"""A detector's stages on one device, called as the server calls them: features stay where they were computed.

The two kinds differ in what runs a stage: ONNX Runtime with a provider, or TensorRT with an engine. Values that a stage
gives stay on the device as handles until `array` fetches them.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import DyndetError, MissingExtraError
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import DETECTION_OUTPUTS, DIFFICULTY, IMAGE, Bundle, StageName
from dyndet_builder.bundle.runner import Answer
from dyndet_builder.bundle.sessions import Array

Values = dict[str, Any]
"""tensors on a device, by name"""


class DeviceStages(ABC):
    """The served stages of a bundle on a device. `load` comes before a stage runs."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.inputs = {name: tuple(one.name for one in bundle.stages[name].inputs) for name in bundle.served}
        self.outputs = {name: tuple(one.name for one in bundle.stages[name].outputs) for name in bundle.served}

    @abstractmethod
    def load(self, stage: StageName) -> None:
        """Make a stage ready to run. Raises DyndetError, in one sentence, if this device cannot run it."""

    @abstractmethod
    def put(self, arrays: Mapping[str, Array]) -> Values:
        """Arrays, copied to the device."""

    @abstractmethod
    def array(self, value: Any) -> Array:
        """A value, copied to the CPU."""

    @abstractmethod
    def call(self, stage: StageName, given: Mapping[str, Any]) -> Values:
        """All outputs of a stage, once they are computed."""

    def features(self) -> tuple[str, ...]:
        """Names of the tensors that go from stage to stage."""
        later = {name for stage, names in self.inputs.items() if stage != self.bundle.first for name in names}
        return tuple(name for name in self.outputs[self.bundle.first] if name in later)

    def route(self, images: UInt8Array, *, hard: bool, copied: bool = False) -> tuple[Values, Values]:
        """What the first stage and the detector of a route give for images (B, H, W, 3).

        With `copied`, features go to the CPU and back between the stages.
        """
        given = self.put({IMAGE: images})
        first = self.call(self.bundle.first, given)
        last: StageName | None = "detector2" if hard else self.bundle.easy
        if last is None:
            return first, first
        features = {name: first[name] for name in self.features()}
        if copied:
            features = self.put({name: self.array(value) for name, value in features.items()})
        return first, self.call(last, {**given, **features})

    def answer(self, images: UInt8Array, *, hard: bool) -> Answer:
        """The same as arrays: the difficulty, and the detections."""
        first, found = self.route(images, hard=hard)
        return Answer(
            {DIFFICULTY: self.array(first[DIFFICULTY])}, {name: self.array(found[name]) for name in DETECTION_OUTPUTS}
        )

    def easy(self, images: UInt8Array) -> Answer:
        """`answer` by the easy route."""
        return self.answer(images, hard=False)

    def hard(self, images: UInt8Array) -> Answer:
        """`answer` by the hard route."""
        return self.answer(images, hard=True)

    def inputs_of(self, stage: StageName, images: UInt8Array) -> Values:
        """What a stage reads for these images, on the device."""
        given = self.put({IMAGE: images})
        if stage != self.bundle.first:
            given |= self.call(self.bundle.first, given)
        return {name: given[name] for name in self.inputs[stage]}


class OnnxRuntimeStages(DeviceStages):
    """Stages as ONNX Runtime sessions with one provider; the CPU may run what the provider does not."""

    def __init__(
        self,
        bundle: Bundle,
        graphs: Mapping[StageName, Path],
        *,
        provider: str,
        options: Mapping[str, str] | None = None,
        gpu: int | None = None,
    ) -> None:
        super().__init__(bundle)
        self._graphs = graphs
        self._provider = provider
        self._options = dict(options or {})
        self._device = ("cpu", 0) if gpu is None else ("cuda", gpu)
        self._sessions: dict[StageName, Any] = {}

    def load(self, stage: StageName) -> None:
        """See `DeviceStages.load`."""
        import onnxruntime  # after `sessions`, which switches its telemetry off

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        providers: Sequence[Any] = [(self._provider, self._options), "CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(
                self._graphs[stage], options, providers=providers[:1] if self._device[0] == "cpu" else providers
            )
        except Exception as error:  # ONNX Runtime's own classes have no common base
            raise DyndetError(f"ONNX Runtime cannot load stage {stage}: {_first_line(error)}") from error
        if (found := session.get_providers()[0]) != self._provider:
            raise DyndetError(f"ONNX Runtime runs stage {stage} with {found}: {self._provider} could not be loaded")
        self._sessions[stage] = session

    def put(self, arrays: Mapping[str, Array]) -> Values:
        """See `DeviceStages.put`."""
        import onnxruntime

        return {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), *self._device)
            for name, array in arrays.items()
        }

    def array(self, value: Any) -> Array:
        """See `DeviceStages.array`."""
        found: Array = value.numpy()
        return found

    def call(self, stage: StageName, given: Mapping[str, Any]) -> Values:
        """See `DeviceStages.call`. Raises DyndetError if the stage fails."""
        session = self._sessions[stage]
        binding = session.io_binding()
        for name in self.inputs[stage]:
            binding.bind_ortvalue_input(name, given[name])
        for name in self.outputs[stage]:
            binding.bind_output(name, *self._device)
        try:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:
            raise DyndetError(f"stage {stage} failed: {_first_line(error)}") from error
        return dict(zip(self.outputs[stage], binding.get_outputs(), strict=True))


class EngineStages(DeviceStages):
    """Stages as TensorRT engines, in tensors of PyTorch, which must be built for CUDA. Not run without a GPU."""

    def __init__(self, bundle: Bundle, plans: Mapping[StageName, Path], *, gpu: int) -> None:
        super().__init__(bundle)
        try:
            self._trt = importlib.import_module("tensorrt")
            self._torch = importlib.import_module("torch")
        except ImportError as error:
            raise MissingExtraError(f"engines need the Python modules tensorrt and torch here ({error})") from error
        if not self._torch.cuda.is_available():
            raise MissingExtraError("engines are run in tensors of PyTorch, but this PyTorch has no CUDA")
        self._plans = plans
        self._device = self._torch.device("cuda", gpu)
        self._stream = self._torch.cuda.Stream(self._device)
        self._logger = self._trt.Logger(self._trt.Logger.ERROR)
        self._contexts: dict[StageName, Any] = {}

    def load(self, stage: StageName) -> None:
        """See `DeviceStages.load`."""
        with self._torch.cuda.device(self._device):
            initialise = getattr(self._trt, "init_libnvinfer_plugins", None)
            if initialise is not None:
                initialise(self._logger, "")
            engine = self._trt.Runtime(self._logger).deserialize_cuda_engine(self._plans[stage].read_bytes())
            if engine is None:
                raise DyndetError(
                    f"TensorRT {self._trt.__version__} cannot load the engine of stage {stage}: it belongs to another "
                    "GPU or version"
                )
            self._contexts[stage] = engine.create_execution_context()

    def put(self, arrays: Mapping[str, Array]) -> Values:
        """See `DeviceStages.put`."""
        return {
            name: self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for name, array in arrays.items()
        }

    def array(self, value: Any) -> Array:
        """See `DeviceStages.array`."""
        found: Array = value.cpu().numpy()
        return found

    def call(self, stage: StageName, given: Mapping[str, Any]) -> Values:
        """See `DeviceStages.call`. Raises DyndetError if the engine fails."""
        context, torch = self._contexts[stage], self._torch
        batch = next(iter(given.values())).shape[0]
        found: Values = {}
        with torch.cuda.device(self._device):
            for name in self.inputs[stage]:
                tensor = given[name].contiguous()
                context.set_input_shape(name, tuple(tensor.shape))
                context.set_tensor_address(name, tensor.data_ptr())
            for tensor in self.bundle.stages[stage].outputs:
                kind = getattr(torch, tensor.dtype)
                found[tensor.name] = torch.empty((batch, *tensor.shape), dtype=kind, device=self._device)
                context.set_tensor_address(tensor.name, found[tensor.name].data_ptr())
            torch.cuda.current_stream(self._device).synchronize()
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise DyndetError(f"the engine of stage {stage} failed")
            self._stream.synchronize()
        return found


def _first_line(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0], limit=300)
