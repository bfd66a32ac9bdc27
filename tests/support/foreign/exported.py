"""Real detectors of the transformers package with small random weights, exported as optimum-onnx exports them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

SIZE = 64
CLASSES = 7


class _Two(nn.Module):
    """The two outputs that an export has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        answer = self.model(pixel_values=pixel_values)
        return answer.logits, answer.pred_boxes


def _backbone() -> Any:
    from transformers import RTDetrResNetConfig

    return RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
        out_indices=[2, 3, 4],
    )


_DEFORMABLE: Mapping[str, Any] = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 16, 32],
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "num_queries": 30,
    "num_denoising": 0,
    "num_labels": CLASSES,
}


def _rt_detr() -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    return RTDetrForObjectDetection(RTDetrConfig(backbone_config=_backbone(), **_DEFORMABLE))


def _d_fine() -> nn.Module:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 16, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 3, 3],
        stage_numb_of_layers=[2, 2, 2, 2],
        embedding_size=8,
        hidden_sizes=[16, 16, 16, 32],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
        out_indices=[2, 3, 4],
    )
    return DFineForObjectDetection(DFineConfig(backbone_config=backbone, **{**_DEFORMABLE, "decoder_layers": 2}))


def _detr() -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    return DetrForObjectDetection(
        DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=backbone,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            num_queries=20,
            num_labels=CLASSES,
        )
    )


def _yolos() -> nn.Module:
    from transformers import YolosConfig, YolosForObjectDetection

    return YolosForObjectDetection(
        YolosConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=[SIZE, SIZE],
            patch_size=16,
            num_detection_tokens=20,
            num_labels=CLASSES,
        )
    )


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "rt_detr": _rt_detr,
    "d_fine": _d_fine,
    "detr": _detr,
    "yolos": _yolos,
}
HAS_NO_OBJECT = ("detr", "yolos")
"""whose last slot means no object"""


def export(name: str, path: Path) -> None:
    """Write the model's ONNX file: `pixel_values` to `logits` and `pred_boxes`, dynamic batch."""
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that answers differ from picture to picture
            if parameter.dim() > 1:
                parameter.mul_(3)
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Two(model),
            (torch.rand(2, 3, SIZE, SIZE),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["pixel_values"],
            output_names=["logits", "pred_boxes"],
            dynamic_axes={one: {0: "batch_size"} for one in ("pixel_values", "logits", "pred_boxes")},
        )
