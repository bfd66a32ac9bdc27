"""OpenVINO compiles every stage for the CPU and answers as ONNX Runtime does, on real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynamicdet.pictures import pictures_in, spread
from dyndet_builder.bundle.export import letterboxed
from dyndet_builder.bundle.manifest import STAGES
from dyndet_builder.bundle.runner import BundleRunner, Tensors

openvino = pytest.importorskip("openvino", reason="`pip install 'dyndet[openvino]'` installs it")


def test_stages_answer_as_onnx_runtime_does(bundle_folder: Path, demo_images: Path) -> None:
    """One image and a batch, both routes, each stage fed with ONNX Runtime's features."""
    runner = BundleRunner(bundle_folder)
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = {stage: core.compile_model(bundle_folder / f"{stage}.onnx", "CPU", hints) for stage in STAGES}
    images = np.stack(list(letterboxed(spread(pictures_in(demo_images), 5), runner.bundle.input_size)))
    for batch in (images[:1], images):
        fed = {**runner.backbone1(batch), "image": batch}
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
