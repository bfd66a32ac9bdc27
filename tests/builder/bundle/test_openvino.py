"""OpenVINO compiles every rendered stage for the CPU and answers as ONNX Runtime does, on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.pictures import pictures_in, spread
from dyndet_builder.bundle.export import letterboxed
from dyndet_builder.bundle.manifest import STAGES
from dyndet_builder.bundle.runner import BundleRunner, Tensors
from dyndet_builder.repository.render import RenderOptions, render

openvino = pytest.importorskip("openvino", reason="the extra `openvino` installs it")

# What Triton's backend reads of a model's parameters and sets (openvino_backend, src/openvino.cc). It ignores others.
READ_BY_TRITON = {"INFERENCE_NUM_THREADS": int, "COMPILATION_NUM_THREADS": int, "NUM_STREAMS": int}
MARKS = {"DisablePrecisionConversion_0", "precise_0"}  # in OpenVINO 2026.4, and before


def _compiled(folder: Path) -> Any:
    """A stage as Triton's backend loads it."""
    config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
    core = openvino.Core()
    for key, kind in {**READ_BY_TRITON, "PERFORMANCE_HINT": str}.items():
        if key in config.parameters:
            core.set_property("CPU", {key: kind(config.parameters[key].string_value)})
    return core.compile_model(folder / "1" / config.default_model_filename, "CPU")


def test_rendered_stages_answer_as_onnx_runtime_does(bundle_folder: Path, demo_images: Path, tmp_path: Path) -> None:
    """One image and a batch, both routes, each stage fed with ONNX Runtime's features; also with bfloat16 at hand."""
    runner = BundleRunner(bundle_folder)
    repository = render(bundle_folder, tmp_path / "models", RenderOptions(backend="openvino"))
    compiled = {stage: _compiled(repository / f"dyndet_{stage}") for stage in STAGES}
    images = np.stack(list(letterboxed(spread(pictures_in(demo_images), 5), runner.bundle.fit)))
    for batch in (images[:1], images):
        fed = {**runner.first(batch), "image": batch}
        for stage in STAGES:
            model = compiled[stage]
            answer = model({value.get_any_name(): fed[value.get_any_name()] for value in model.inputs})
            found: Tensors = {value.get_any_name(): answer[value] for value in model.outputs}
            expected = runner.run(stage, fed)
            assert set(found) == set(expected)
            for name, values in expected.items():
                assert found[name].dtype == values.dtype
                tolerance = 0.05 if name == "boxes" else 1e-3
                assert np.abs(found[name].astype(np.float64) - values).max() < tolerance, (stage, name)


def test_every_layer_is_marked_to_stay_in_fp32(bundle_folder: Path, tmp_path: Path) -> None:
    """Holds on a processor without bfloat16 too, where the answers would be right without the marks."""
    repository = render(bundle_folder, tmp_path / "models", RenderOptions(backend="openvino"))
    for stage in STAGES:
        model = openvino.Core().read_model(repository / f"dyndet_{stage}" / "1" / "model.xml")
        assert model.get_ops() and all(MARKS & set(layer.get_rt_info()) for layer in model.get_ops())
