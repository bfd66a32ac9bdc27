"""A static checkpoint becomes a folder with one graph, which is also a file for a pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dynamicdet
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.images import read_image
from dynamicdet.letterbox import letterbox
from dynamicdet.suppression import Suppression, suppress_rows
from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.bundle.sessions import run_session, session_of
from dyndet_builder.bundle.static import read_static
from dyndet_builder.detectors.inspect import spec_for
from dyndet_builder.static_export import export_static


def test_a_static_checkpoint_is_exported_whole(
    small_static: str, small_network: str, demo_images: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = dynamicdet.create_static(small_static, 2, ("disc", "square"))
    dynamicdet.save(network, tmp_path / "static.safetensors")
    output = tmp_path / "exported"
    described = export_static(
        tmp_path / "static.safetensors",
        output,
        images=demo_images,
        max_detections=10,
        parity_images=3,
        exporter="torchscript",  # the faster one
    )
    assert read_static(output) == described
    assert described.parity.suppression_differences == 0
    assert described.parity.box_px < 0.05

    image = letterbox(read_image(min(demo_images.iterdir())), 64).image
    found = run_session(session_of(output / "small-static.onnx"), {"image": image[None]}, name="it")
    rows = network.eval()(torch.from_numpy(image[None]).permute(0, 3, 1, 2).float() / 255)
    (expected,) = suppress_rows(rows, Suppression(candidates=described.nms.pre_top_k, max_detections=10), size=64)
    assert found["num_detections"][0, 0] == len(expected.scores)
    assert np.allclose(found["scores"][0], expected.scores.detach(), atol=1e-4)

    spec = spec_for(output / "small-static.onnx")
    assert (spec.class_names, spec.output.family, spec.output.suppress) == (("disc", "square"), "counted", False)
    assert spec.input.fit == described.fit

    with pytest.raises(InputError, match="is not a bundle: it holds a static detector, which has no router"):
        read_bundle(output)
    (output / "small-static.onnx").write_bytes(b"changed")
    with pytest.raises(InputError, match="has changed since it was exported"):
        read_static(output)
    dynamicdet.save(dynamicdet.create(small_network, 2), tmp_path / "dynamic.safetensors")
    with pytest.raises(CheckpointError, match="holds small, a dynamic detector, not a static one"):
        export_static(tmp_path / "dynamic.safetensors", tmp_path / "none", images=demo_images)
    assert not (tmp_path / "none").exists()
