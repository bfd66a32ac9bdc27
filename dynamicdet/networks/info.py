"""The costs of a network: parameters, work of both routes, and the features that go from stage to stage.

A multiply-accumulate (MAC) is two FLOPs here, as in the paper's tables of YOLO networks. Papers of two-stage detectors
call a MAC a FLOP.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynamicdet.errors import InputError
from dynamicdet.networks.architectures import Spec, any_architecture, known_architectures
from dynamicdet.networks.checkpoints import load_network
from dynamicdet.networks.network import (
    DynamicDetector,
    Network,
    RoutedNetwork,
    StaticDetector,
    TwoStageDetector,
    network_of,
)
from dynamicdet.networks.router.form import PUBLISHED_ROUTER, RouterForm
from dynamicdet.networks.two_stage.operators import Operators

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Feature:
    """A feature of backbone 1, for one image."""

    name: str
    shape: tuple[int, ...]
    """(C, H, W)."""
    read_by: tuple[str, ...]
    """Of "router" (which runs beside backbone 1), "head1" and "detector2"."""

    @property
    def bytes(self) -> int:
        """Size in float32."""
        return _FLOAT32_BYTES * self.shape[0] * self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class NetworkInfo:
    """Costs of one network at its input size, batch 1; GFLOPs and features are those of the deployment form."""

    architecture: str
    input_size: int
    num_classes: int
    parameters: int
    """In training form."""
    deployed_parameters: int
    easy_gflops: float
    """2 x multiply-accumulates of convolutions and matrix products: backbone 1, router, neck and head 1.

    Heads of a two-stage network work on as many proposals and masks as their shapes have, however many are used.
    """
    hard_gflops: float
    """Backbone 1, router and detector 2; neck and head 1 do not run on a hard image."""
    features: tuple[Feature, ...]
    """None of a static detector, whose GFLOPs are those of its only route."""
    static: bool = False
    two_stage: bool = False

    def gflops_at(self, hard_share: float) -> float:
        """Mean GFLOPs if this share of the images (0..1) is hard. Raises InputError outside 0..1."""
        if not 0.0 <= hard_share <= 1.0:
            raise InputError(f"a hard share must be from 0 to 1, got {hard_share}")
        return self.easy_gflops + hard_share * (self.hard_gflops - self.easy_gflops)

    def crossing_bytes(self, stage: str) -> int:
        """Bytes of one image's float32 features that go from backbone 1 to "head1" or "detector2"."""
        return sum(feature.bytes for feature in self.features if stage in feature.read_by)

    def as_json(self) -> dict[str, Any]:
        """What `dyndet info --json` prints."""
        return {
            "architecture": self.architecture,
            "kind": "static" if self.static else "dynamic",
            "input_size": self.input_size,
            "num_classes": self.num_classes,
            "parameters": self.parameters,
            "deployed_parameters": self.deployed_parameters,
            "gflops": {"easy": self.easy_gflops, "hard": self.hard_gflops},
            "gmacs": {"easy": self.easy_gflops / 2, "hard": self.hard_gflops / 2},
            "features": [
                {"name": item.name, "shape": list(item.shape), "bytes": item.bytes, "read_by": list(item.read_by)}
                for item in self.features
            ],
            "crossing_bytes": {stage: self.crossing_bytes(stage) for stage in ("head1", "detector2")},
        }


def info(source: str | Path, *, num_classes: int | None = None, input_size: int | None = None) -> NetworkInfo:
    """Costs of an architecture by name, or of a checkpoint file.

    `num_classes` (default 80) is only for a name: a file has its own. Raises InputError if `source` is neither a known
    name nor a loadable file.
    """
    if str(source) in known_architectures():
        return measure(
            any_architecture(str(source)), num_classes=80 if num_classes is None else num_classes, input_size=input_size
        )
    if not Path(source).exists():
        raise InputError(
            f"{source} is neither a file nor a network; known networks are {', '.join(known_architectures())}"
        )
    if num_classes is not None:
        raise InputError("a number of classes is accepted only with the name of a network; a checkpoint has its own")
    model = load_network(source)
    size = model.input_size if input_size is None else input_size
    form = PUBLISHED_ROUTER if isinstance(model, StaticDetector) else model.router.form
    return measure(model.spec, num_classes=model.num_classes, input_size=size, router=form)


@torch.no_grad()
def measure(
    spec: Spec,
    *,
    num_classes: int = 80,
    input_size: int | None = None,
    image_size: tuple[int, int] | None = None,
    router: RouterForm = PUBLISHED_ROUTER,
) -> NetworkInfo:
    """Costs of a network; `image_size`, height and width, is for a rectangle instead of the square that it reads."""
    with torch.device("meta"):  # shapes without memory: a 1280 px network is measured in seconds
        model = network_of(spec, num_classes=num_classes, input_size=input_size, router=router)
        deployed = model.deploy()
        image = torch.empty(1, 3, *(image_size or (model.input_size, model.input_size)))
        features: dict[str, Tensor] = {}
        if isinstance(deployed, StaticDetector):
            easy = hard = _gflops(functools.partial(deployed.detect, image))
        else:
            features, easy, hard = _routes(deployed, image)
    return NetworkInfo(
        architecture=spec.name,
        input_size=model.input_size,
        num_classes=num_classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        deployed_parameters=sum(parameter.numel() for parameter in deployed.parameters()),
        easy_gflops=easy,
        hard_gflops=hard,
        features=tuple(_feature(model, feature, tensor) for feature, tensor in features.items()),
        static=isinstance(model, StaticDetector),
        two_stage=isinstance(model, TwoStageDetector),
    )


def _routes(network: DynamicDetector | TwoStageDetector, image: Tensor) -> tuple[dict[str, Tensor], float, float]:
    """Features, and GFLOPs of the easy and of the hard route."""
    features = network.features(image)
    shared = _gflops(lambda: network.route(network.features(image)))
    if isinstance(network, TwoStageDetector):
        two_stage = network
        two_stage.operators = Operators(keep=lambda _boxes, scores, _groups, _iou: scores > 0)  # no values are known
        easy = _gflops(lambda: two_stage.head1(features))
        hard = _gflops(lambda: two_stage.detector2(features))
    else:
        yolo = network
        easy = _gflops(lambda: yolo.head1(features))
        hard = _gflops(lambda: yolo.detector2(image, features))
    return features, shared + easy, shared + hard


def _gflops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e9


def _feature(model: Network, name: str, tensor: Tensor) -> Feature:
    assert isinstance(model, RoutedNetwork)  # no feature of a static detector leaves it
    readers = {"router": model.router_reads, "head1": model.head1_reads, "detector2": model.detector2_reads}
    return Feature(name, tuple(tensor.shape[1:]), tuple(reader for reader, names in readers.items() if name in names))
