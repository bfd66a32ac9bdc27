"""The YOLO networks: a dynamic detector, two detectors and a router, and a static one, with which it is compared.

The two-stage networks are in `two_stage`; the functions here create any kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dynamicdet.errors import InputError
from dynamicdet.networks.architectures import (
    STATIC_ARCHITECTURES,
    Model,
    Spec,
    StaticModel,
    any_architecture,
    architecture,
)
from dynamicdet.networks.backbone import Backbone, Links
from dynamicdet.networks.base import Network, Route, RoutedNetwork, feature_name
from dynamicdet.networks.heads import Head, NeckLayers, decode
from dynamicdet.networks.router.form import PUBLISHED_ROUTER, RouterForm
from dynamicdet.networks.router.layers import Router
from dynamicdet.networks.two_stage.architectures import TwoStageModel
from dynamicdet.networks.two_stage.detector import TwoStageDetector

__all__ = [
    "DynamicDetector",
    "Network",
    "Route",
    "RoutedNetwork",
    "StaticDetector",
    "TwoStageDetector",
    "YoloNetwork",
    "create",
    "create_static",
    "feature_name",
    "network_of",
]


class YoloNetwork(Network):
    """What the YOLO networks share: anchors, and the form of the answers.

    Images are float (B, 3, S, S), RGB in 0..1, S a multiple of the largest stride. Raises InputError if class names or
    input size do not fit.
    """

    spec: Model | StaticModel
    anchors: Tensor

    def __init__(
        self,
        spec: Model | StaticModel,
        *,
        num_classes: int = 80,
        class_names: Sequence[str] | None = None,
        input_size: int | None = None,
    ) -> None:
        super().__init__(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)
        self.head1_reads = tuple(feature_name(stride) for stride in spec.strides)
        self.register_buffer("anchors", torch.tensor(spec.anchors, dtype=torch.float32))  # (levels, anchors, 2) pixels

    def raw_maps(self, x: Tensor) -> tuple[list[Tensor], ...]:
        """The raw maps of every detector for every image, for training; see `DynamicDetector.head1`."""
        raise NotImplementedError

    def decode(self, raw: Sequence[Tensor]) -> Tensor:
        """Raw maps to rows (B, N, 5 + classes): cx cy w h objectness class..., pixels, after the sigmoid.

        Rows come in (level, anchor, row, column) order.
        """
        return decode(raw, self.anchors, self.spec.strides)


class DynamicDetector(YoloNetwork, RoutedNetwork):
    """Backbone 1 and router for every image, then head 1 (easy) or detector 2 (hard).

    Features are dictionaries with keys "features_<stride>", so a caller may run each stage where and when it wants.
    """

    spec: Model
    reads_image = True

    def __init__(
        self,
        spec: Model,
        *,
        num_classes: int = 80,
        class_names: Sequence[str] | None = None,
        input_size: int | None = None,
        router: RouterForm = PUBLISHED_ROUTER,
    ) -> None:
        super().__init__(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)
        self.router_reads = tuple(feature_name(stride) for stride in spec.router_strides)
        self.detector2_reads = tuple(feature_name(stride) for stride in spec.link_strides)

        anchors = len(spec.anchors[0])
        levels = len(spec.anchors)
        activation = spec.activation
        self.backbone1 = Backbone(spec.first, activation=activation)
        self.router = self.fresh_router(router)
        self.neck1 = NeckLayers(spec.first, levels=levels, activation=activation)
        self.predict1 = Head(spec.first, anchors=anchors, classes=num_classes, activation=activation)
        self.links = Links(spec)
        self.backbone2 = Backbone(spec.second, activation=activation)
        self.neck2 = NeckLayers(spec.second, levels=levels, activation=activation)
        self.predict2 = Head(spec.second, anchors=anchors, classes=num_classes, activation=activation)

    def fresh_router(self, form: RouterForm) -> Router:
        """A router with random weights that reads this network's features; to use it, assign it to `router`."""
        return Router([self.spec.first.channels[stride] for stride in self.spec.router_strides], form=form)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Everything the router, head 1 and detector 2 read, by "features_<stride>"."""
        features = self.backbone1(x)
        named = {feature_name(stride): feature for stride, feature in features.items()}
        read = {*self.router_reads, *self.head1_reads, *self.detector2_reads}
        return {name: feature for name, feature in named.items() if name in read}

    def head1(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Detector 1's raw maps (B, anchors, H, W, 5 + classes) per level, finest first, before the sigmoid."""
        maps: list[Tensor] = self.predict1(self.neck1([features[name] for name in self.head1_reads]))
        return maps

    def detector2(self, x: Tensor, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Detector 2's raw maps, as `head1` returns them, from the image and backbone 1's features."""
        first = {stride: features[feature_name(stride)] for stride in self.spec.link_strides}
        second = self.backbone2(x, self.links(first), first)
        maps: list[Tensor] = self.predict2(self.neck2([second[stride] for stride in self.spec.strides]))
        return maps

    def raw_maps(self, x: Tensor) -> tuple[list[Tensor], ...]:
        """The raw maps of detector 1 and of detector 2 for every image, for training."""
        features = self.features(x)
        return self.head1(features), self.detector2(x, features)

    def forward_route(self, x: Tensor, route: Route) -> Tensor:
        """Decoded rows (see `decode`) of all images by one route. Raises InputError for another route's name."""
        if route not in ("easy", "hard"):
            raise InputError(f"unknown route {route!r}; expected 'easy' or 'hard'")
        features = self.features(x)
        return self.decode(self.head1(features) if route == "easy" else self.detector2(x, features))


class StaticDetector(YoloNetwork):
    """One detector for every image. Its parts have the names of detector 1's in a `DynamicDetector`."""

    spec: StaticModel

    def __init__(
        self,
        spec: StaticModel,
        *,
        num_classes: int = 80,
        class_names: Sequence[str] | None = None,
        input_size: int | None = None,
    ) -> None:
        super().__init__(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)
        self.backbone1 = Backbone(spec.first, activation=spec.activation)
        self.neck1 = NeckLayers(spec.first, levels=len(spec.anchors), activation=spec.activation)
        self.predict1 = Head(spec.first, anchors=len(spec.anchors[0]), classes=num_classes, activation=spec.activation)

    def detect(self, x: Tensor) -> list[Tensor]:
        """Raw maps (B, anchors, H, W, 5 + classes) per level, finest first, before the sigmoid."""
        features = self.backbone1(x)
        maps: list[Tensor] = self.predict1(self.neck1([features[stride] for stride in self.spec.strides]))
        return maps

    def raw_maps(self, x: Tensor) -> tuple[list[Tensor], ...]:
        """The raw maps of the one detector, for training."""
        return (self.detect(x),)

    def forward(self, x: Tensor) -> Tensor:
        """Decoded rows (see `decode`) of all images."""
        return self.decode(self.detect(x))


def create(
    name: str,
    num_classes: int = 80,
    class_names: Sequence[str] | None = None,
    *,
    input_size: int | None = None,
    shared_heads: bool | None = None,
) -> DynamicDetector | TwoStageDetector:
    """A dynamic detector with random weights, in training form.

    `input_size` (pixels) is by default that of the architecture. `shared_heads` says whether pyramid, region proposals
    and heads of a two-stage network serve both routes, by default as the architecture says. Raises InputError for an
    unknown name, and for `shared_heads` of another network: each route of a YOLO network has a head of its own.
    """
    spec: Spec = architecture(name)
    if shared_heads is not None:
        if not isinstance(spec, TwoStageModel):
            raise InputError(f"{name} has a head of its own for each route; only two-stage networks can share theirs")
        spec = replace(spec, shared_heads=shared_heads)
    network = network_of(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)
    assert isinstance(network, DynamicDetector | TwoStageDetector)
    return network


def create_static(
    name: str, num_classes: int = 80, class_names: Sequence[str] | None = None, *, input_size: int | None = None
) -> StaticDetector:
    """A static detector with random weights, in training form; for the rest see `create`."""
    spec = any_architecture(name)
    if not isinstance(spec, StaticModel):
        raise InputError(f"{name} is a dynamic detector; static ones are {', '.join(STATIC_ARCHITECTURES)}")
    return StaticDetector(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)


def network_of(
    spec: Spec,
    *,
    num_classes: int = 80,
    class_names: Sequence[str] | None = None,
    input_size: int | None = None,
    router: RouterForm = PUBLISHED_ROUTER,
) -> DynamicDetector | StaticDetector | TwoStageDetector:
    """A network of any kind with random weights; a static one has no router.

    Raises InputError if class names or input size do not fit.
    """
    if isinstance(spec, TwoStageModel):
        return TwoStageDetector(
            spec, num_classes=num_classes, class_names=class_names, input_size=input_size, router=router
        )
    if isinstance(spec, Model):
        return DynamicDetector(
            spec, num_classes=num_classes, class_names=class_names, input_size=input_size, router=router
        )
    return StaticDetector(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)
