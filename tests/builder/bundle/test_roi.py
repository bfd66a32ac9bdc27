"""Both forms in which graphs read the features of boxes give what the definition of RoIAlign gives."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicdet.errors import ParityError
from dyndet_builder.bundle import roi
from dyndet_builder.bundle.graphs import OPSET
from dyndet_builder.bundle.parts import Target

SIZE, STRIDES, CHANNELS, BOXES, SIDE = 64, (4, 8, 16, 32), 3, 5, 7
TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")


class _Features(torch.nn.Module):
    def __init__(self, target: Target, aligned: bool) -> None:
        super().__init__()
        self.form, self.aligned = roi.ROI_FORMS[target], aligned

    def forward(self, boxes: torch.Tensor, levels: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
        return self.form(maps, boxes, levels, STRIDES, SIDE, self.aligned)


@cache
def graph(target: Target, aligned: bool) -> onnxruntime.InferenceSession:
    """Maps of four levels, `BOXES` boxes and their levels to features, for any number of images."""
    names = ["boxes", "levels", *(f"map{stride}" for stride in STRIDES)]
    maps = [torch.zeros(2, CHANNELS, SIZE // stride, SIZE // stride) for stride in STRIDES]
    roi.register_for_torchscript(OPSET)
    file = io.BytesIO()
    torch.onnx.export(
        _Features(target, aligned).eval(),
        (torch.zeros(2, BOXES, 4), torch.zeros(2, BOXES, dtype=torch.int64), *maps),
        file,
        dynamo=False,
        opset_version=OPSET,
        input_names=names,
        output_names=["features"],
        dynamic_axes={name: {0: "batch"} for name in (*names, "features")},
    )
    model = onnx.load_from_string(file.getvalue())
    roi.check_sampling(model)
    kinds = {node.op_type for node in model.graph.node}
    assert ("RoiAlign" in kinds, "GridSample" in kinds) == (target == "onnxruntime", target == "tensorrt")
    return onnxruntime.InferenceSession(file.getvalue())


def definition(level: Any, box: Any, stride: int, *, aligned: bool) -> Any:
    """RoIAlign of one box on one map (C, H, W), in double precision: the mean of 2 x 2 points in each of the bins."""
    low, high = np.array(box[:2], float) / stride, np.array(box[2:], float) / stride
    size = high - low if aligned else np.maximum(high - low, 1)
    steps = (np.arange(2 * SIDE) + 0.5) / (2 * SIDE)
    x, y = ((low - 0.5 * aligned)[:, None] + size[:, None] * steps).clip(
        0, [[level.shape[2] - 1], [level.shape[1] - 1]]
    )
    values = _between(level, y, axis=1)
    values = _between(values, x, axis=2)  # (C, 2 * SIDE, 2 * SIDE)
    return values.reshape(len(level), SIDE, 2, SIDE, 2).mean((2, 4))


def _between(level: Any, at: Any, axis: int) -> Any:
    """A map along one axis at these places between the centres of its pixels."""
    before = np.floor(at).astype(int)
    after = np.minimum(before + 1, level.shape[axis] - 1)
    weight = (at - before).reshape(-1, *(1,) * (2 - axis))
    return np.take(level, before, axis) * (1 - weight) + np.take(level, after, axis) * weight


# Corners on whole cells and between them, at the borders; boxes of no area, slivers, and the whole image.
_corner = st.sampled_from([0.0, 0.25, 3.0, 16.0, 31.5, 47.9, 60.0, 63.75, 64.0]) | st.floats(0, SIZE, width=32)
_box = st.tuples(_corner, _corner, _corner, _corner).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


_image = st.lists(st.tuples(_box, st.integers(0, 3)), min_size=BOXES, max_size=BOXES)


@pytest.mark.parametrize("aligned", [True, False])
@settings(max_examples=40)
@given(images=st.lists(_image, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_both_forms_are_roi_align(aligned: bool, images: Any, seed: int) -> None:
    """Every level, every border, several images; what lies beside a level in the atlas is never seen."""
    generator = np.random.default_rng(seed)
    feed: dict[str, Any] = {
        f"map{stride}": generator.normal(size=(len(images), CHANNELS, SIZE // stride, SIZE // stride)).astype(
            np.float32
        )
        for stride in STRIDES
    }
    feed["boxes"] = np.array([[box for box, _ in image] for image in images], np.float32)
    feed["levels"] = np.array([[level for _, level in image] for image in images], np.int64)
    expected = np.array(
        [
            [
                definition(feed[f"map{STRIDES[level]}"][index], box, STRIDES[level], aligned=aligned)
                for box, level in zip(feed["boxes"][index], feed["levels"][index], strict=True)
            ]
            for index in range(len(images))
        ]
    )
    for target in TARGETS:
        (found,) = graph(target, aligned).run(None, feed)
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=target)
    tensors = {name: torch.from_numpy(values) for name, values in feed.items()}
    maps = [tensors[f"map{stride}"] for stride in STRIDES]
    for target in TARGETS:
        found = roi.ROI_FORMS[target](maps, tensors["boxes"], tensors["levels"], STRIDES, SIDE, aligned)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4, err_msg=f"{target} in torch")


def test_a_graph_must_say_how_it_samples() -> None:
    """A parser that fills in what is left out samples nearest points, or one point per bin."""
    for text, said in (
        ('y = GridSample <padding_mode = "border", align_corners = 0> (x, grid)', "mode None instead of 'bilinear'"),
        (
            'y = RoiAlign <output_height = 7, output_width = 7, mode = "avg"> (x, grid, i)',
            "without coordinate_tr.*ratio",
        ),
    ):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 18]> g (float[b,c,h,w] x, float[b,n,m,2] grid, int64[b] i) => '
            f"(float[b,c,n,m] y) {{ {text} }}"
        )
        with pytest.raises(ParityError, match=said):
            roi.check_sampling(model)
