"""The networks: a dynamic detector, two detectors and a router, and a static one, with which it is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from dynamicdet.class_names import MOST_CLASSES, check_class_names, default_class_names
from dynamicdet.errors import InputError
from dynamicdet.networks.architectures import (
    LARGEST_INPUT,
    STATIC_ARCHITECTURES,
    Architecture,
    Model,
    StaticModel,
    any_architecture,
    architecture,
)
from dynamicdet.networks.backbone import Backbone, Links
from dynamicdet.networks.fusing import fuse
from dynamicdet.networks.heads import Head, NeckLayers, decode
from dynamicdet.networks.origin import TrainedOn
from dynamicdet.networks.router.form import PUBLISHED_ROUTER, RouterForm
from dynamicdet.networks.router.layers import Router

if TYPE_CHECKING:
    from typing_extensions import Self

Route = Literal["easy", "hard"]


class Network(nn.Module):
    """What the two kinds of networks share: classes, an input, anchors, and the form of the answers.

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
        super().__init__()
        self.spec = spec
        self.num_classes = num_classes
        self.class_names = _checked_names(num_classes, class_names)
        self.input_size = _checked_size(spec, spec.input_size if input_size is None else input_size)
        self.deployed = False
        self.trained_on: TrainedOn | None = None
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

    def deploy(self) -> Self:
        """A copy for inference: batch norm, parallel branches and implicit terms merged into plain convolutions."""
        return fuse(self)


class DynamicDetector(Network):
    """Backbone 1 and router for every image, then head 1 (easy) or detector 2 (hard).

    Features are dictionaries with keys "features_<stride>", so a caller may run each stage where and when it wants.
    """

    spec: Model

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

    def route_logits(self, features: Mapping[str, Tensor]) -> Tensor:
        """What the router computes before the difficulty, (B,): larger is harder."""
        logits: Tensor = self.router([features[name] for name in self.router_reads])
        return logits

    def route(self, features: Mapping[str, Tensor]) -> Tensor:
        """Difficulty phi in 0..1, (B,); an image is hard if phi exceeds the threshold."""
        return self.router.difficulty(self.route_logits(features))

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

    def difficulty(self, x: Tensor) -> Tensor:
        """Difficulty phi of each image in 0..1, (B,)."""
        return self.route(self.features(x))

    def forward_route(self, x: Tensor, route: Route) -> Tensor:
        """Decoded rows (see `decode`) of all images by one route. Raises InputError for another route's name."""
        if route not in ("easy", "hard"):
            raise InputError(f"unknown route {route!r}; expected 'easy' or 'hard'")
        features = self.features(x)
        return self.decode(self.head1(features) if route == "easy" else self.detector2(x, features))


class StaticDetector(Network):
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


def feature_name(stride: int) -> str:
    """Name of a backbone 1 feature that goes from stage to stage."""
    return f"features_{stride}"


def create(
    name: str, num_classes: int = 80, class_names: Sequence[str] | None = None, *, input_size: int | None = None
) -> DynamicDetector:
    """A network with random weights, in training form.

    `input_size` (pixels) is by default that of the architecture. Raises InputError for an unknown name.
    """
    return DynamicDetector(architecture(name), num_classes=num_classes, class_names=class_names, input_size=input_size)


def create_static(
    name: str, num_classes: int = 80, class_names: Sequence[str] | None = None, *, input_size: int | None = None
) -> StaticDetector:
    """A static detector with random weights, in training form; for the rest see `create`."""
    spec = any_architecture(name)
    if isinstance(spec, Model):
        raise InputError(f"{name} is a dynamic detector; static ones are {', '.join(STATIC_ARCHITECTURES)}")
    return StaticDetector(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)


def network_of(
    spec: Model | StaticModel,
    *,
    num_classes: int = 80,
    class_names: Sequence[str] | None = None,
    input_size: int | None = None,
    router: RouterForm = PUBLISHED_ROUTER,
) -> DynamicDetector | StaticDetector:
    """A network of either kind with random weights; a static one has no router.

    Raises InputError if class names or input size do not fit.
    """
    if isinstance(spec, Model):
        return DynamicDetector(
            spec, num_classes=num_classes, class_names=class_names, input_size=input_size, router=router
        )
    return StaticDetector(spec, num_classes=num_classes, class_names=class_names, input_size=input_size)


def _checked_names(num_classes: int, class_names: Sequence[str] | None) -> tuple[str, ...]:
    if not 1 <= num_classes <= MOST_CLASSES:
        raise InputError(f"a detector needs at least one class and has at most {MOST_CLASSES:,}, got {num_classes:,}")
    names = default_class_names(num_classes) if class_names is None else check_class_names(class_names)
    if len(names) != num_classes:
        raise InputError(f"{len(names)} class names were given for {num_classes} classes")
    return names


def _checked_size(spec: Architecture, size: int) -> int:
    coarsest = spec.strides[-1]
    if not coarsest <= size <= LARGEST_INPUT or size % coarsest:
        raise InputError(
            f"input size {size} does not fit {spec.name}: it must be a positive multiple of {coarsest}, at most "
            f"{LARGEST_INPUT}"
        )
    return size
