"""NVIDIA's own parser and builder take every stage, without a GPU (TensorRT-RTX builds for a GPU that is named)."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dyndet_builder.bundle import STAGES, StageName, read_bundle

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="`pip install 'dyndet[tensorrt-rtx]'` installs it")

_TYPES = {"uint8": "UINT8", "int32": "INT32", "float16": "HALF", "float32": "FLOAT"}
_BATCHES = (1, 4, 8)


class _Engine:
    """What the parser made of a graph, and the engine built from it for an SM 8.6 GPU."""

    def __init__(self, graph: Path) -> None:
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network()
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse(graph.read_bytes())
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        assert parsed and not errors, errors
        self.layers = network.num_layers
        self.inputs = [_described(network.get_input(index)) for index in range(network.num_inputs)]
        self.outputs = [_described(network.get_output(index)) for index in range(network.num_outputs)]
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        profile = builder.create_optimization_profile()
        for name, _, shape in self.inputs:
            profile.set_shape(name, *((batch, *shape) for batch in _BATCHES))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        assert plan is not None, "the builder has no implementation for this graph"
        self.size = plan.nbytes


def _described(tensor: object) -> tuple[str, str, tuple[int, ...]]:
    """Name, type and shape without the batch."""
    batch, *rest = tensor.shape  # type: ignore[attr-defined]
    assert batch == -1, "the batch is dynamic"
    return tensor.name, tensor.dtype.name, tuple(rest)  # type: ignore[attr-defined]


@pytest.mark.parametrize("stage", STAGES)
def test_stages_parse_and_build_in_both_precisions(
    bundle_folder: Path, half_bundle_folder: Path, stage: StageName
) -> None:
    """The engine has the bundle's tensors, and half precision is smaller, not fp32 in disguise."""
    sizes = []
    for folder in (bundle_folder, half_bundle_folder):
        described = read_bundle(folder).stages[stage]
        engine = _Engine(folder / described.file)
        for found, expected in ((engine.inputs, described.inputs), (engine.outputs, described.outputs)):
            assert found == [(tensor.name, _TYPES[tensor.dtype], tensor.shape) for tensor in expected]
        assert engine.layers > 50, "a parser that understood nothing still answers True"
        weights = sum(len(tensor.raw_data) for tensor in onnx.load(folder / described.file).graph.initializer)
        assert engine.size > weights
        sizes.append(engine.size)
    assert sizes[1] < 0.9 * sizes[0]


def test_a_graph_it_cannot_build_is_noticed(tmp_path: Path) -> None:
    """The check above can fail: uint8 arithmetic, which our graphs avoid by casting first, is refused."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 3])
    turned = helper.make_tensor_value_info("turned", TensorProto.UINT8, ["batch", 3, 8, 8])
    node = helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2])
    model = helper.make_model(
        helper.make_graph([node], "g", [image], [turned]), opset_imports=[helper.make_opsetid("", 18)]
    )
    path = tmp_path / "transpose.onnx"
    onnx.save(model, path)
    with pytest.raises(AssertionError):
        _Engine(path)
