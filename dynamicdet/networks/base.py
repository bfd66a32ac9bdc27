"""What all networks share: classes and an input; and what all dynamic ones share: a router and its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from dynamicdet.class_names import MOST_CLASSES, check_class_names, default_class_names
from dynamicdet.errors import InputError
from dynamicdet.networks.architectures import LARGEST_INPUT, Spec
from dynamicdet.networks.fusing import fuse
from dynamicdet.networks.origin import TrainedOn
from dynamicdet.networks.router.form import RouterForm
from dynamicdet.networks.router.layers import Router

if TYPE_CHECKING:
    from typing_extensions import Self

Route = Literal["easy", "hard"]


class Network(nn.Module):
    """What all networks share.

    Images are float (B, 3, S, S), RGB in 0..1, S a multiple of the largest stride. Raises InputError if class names or
    input size do not fit.
    """

    spec: Spec

    def __init__(
        self,
        spec: Spec,
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

    def freeze(self) -> None:
        """Exclude from training what the architecture keeps as it is; most keep nothing."""

    def compute_constants(self) -> None:
        """Compute anew the buffers that no checkpoint has, for a network that was made without memory."""

    def deploy(self) -> Self:
        """A copy for inference: batch norm, parallel branches and implicit terms merged into plain convolutions."""
        return fuse(self)


class RoutedNetwork(Network):
    """A dynamic detector of any kind: backbone 1 and a router, whose difficulty decides between two routes.

    Features are dictionaries by name, so a caller may run each stage where and when it wants.
    """

    router: Router
    router_reads: tuple[str, ...]
    head1_reads: tuple[str, ...]
    detector2_reads: tuple[str, ...]
    reads_image: bool
    """whether detector 2 reads the image, beside its features"""

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Everything the router, head 1 and detector 2 read, by name."""
        raise NotImplementedError

    def fresh_router(self, form: RouterForm) -> Router:
        """A router with random weights that reads this network's features; to use it, assign it to `router`."""
        raise NotImplementedError

    def route_logits(self, features: Mapping[str, Tensor]) -> Tensor:
        """What the router computes before the difficulty, (B,): larger is harder."""
        logits: Tensor = self.router([features[name] for name in self.router_reads])
        return logits

    def route(self, features: Mapping[str, Tensor]) -> Tensor:
        """Difficulty phi in 0..1, (B,); an image is hard if phi exceeds the threshold."""
        return self.router.difficulty(self.route_logits(features))

    def difficulty(self, x: Tensor) -> Tensor:
        """Difficulty phi of each image in 0..1, (B,)."""
        return self.route(self.features(x))


def feature_name(stride: int) -> str:
    """Name of a backbone 1 feature that goes from stage to stage."""
    return f"features_{stride}"


def _checked_names(num_classes: int, class_names: Sequence[str] | None) -> tuple[str, ...]:
    if not 1 <= num_classes <= MOST_CLASSES:
        raise InputError(f"a detector needs at least one class and has at most {MOST_CLASSES:,}, got {num_classes:,}")
    names = default_class_names(num_classes) if class_names is None else check_class_names(class_names)
    if len(names) != num_classes:
        raise InputError(f"{len(names)} class names were given for {num_classes} classes")
    return names


def _checked_size(spec: Spec, size: int) -> int:
    coarsest = spec.strides[-1]
    if not coarsest <= size <= LARGEST_INPUT or size % coarsest:
        raise InputError(
            f"input size {size} does not fit {spec.name}: it must be a positive multiple of {coarsest}, at most "
            f"{LARGEST_INPUT}"
        )
    return size
