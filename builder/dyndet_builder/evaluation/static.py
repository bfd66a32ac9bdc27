"""Evaluates a static checkpoint: one average precision, on the same data and by the same steps as a dynamic one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import CocoDataset, in_class_order, read_dataset
from dynamicdet.evaluation.static import StaticEvaluation
from dynamicdet.evaluation.static import evaluate_static as evaluate_network
from dynamicdet.letterbox import Fit
from dynamicdet.networks.checkpoints import load_static
from dynamicdet.networks.network import Network
from dynamicdet.routing.routes import check_classes


@dataclass(frozen=True, kw_only=True)
class StaticReport:
    """An evaluation and its source."""

    source: str
    architecture: str
    data: str
    evaluation: StaticEvaluation

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "source": self.source,
            "kind": "static",
            "architecture": self.architecture,
            "data": self.data,
            **self.evaluation.as_json(),
        }


def evaluate_static(
    checkpoint: Path,
    *,
    data: Path,
    images: Path | None = None,
    trust_pictures: bool = False,
    progress: Progress = silent,
) -> StaticReport:
    """COCO average precision of a static checkpoint; `data`, `images` and `trust_pictures` as in `evaluate`.

    Raises CheckpointError and InputError before any image is run.
    """
    network = load_static(checkpoint)
    truth = truth_for(network, data, images=images, trust_pictures=trust_pictures, progress=progress)
    return StaticReport(
        source=f"checkpoint {checkpoint.name}",
        architecture=network.spec.name,
        data="/".join(data.resolve().parts[-2:]),
        evaluation=evaluate_network(network, truth, progress=progress),
    )


def truth_for(
    network: Network,
    data: Path,
    *,
    images: Path | None = None,
    trust_pictures: bool = False,
    progress: Progress = silent,
) -> CocoDataset:
    """The data set at the network's size, its classes in the network's order. Raises InputError if they differ."""
    fit = Fit.square(network.input_size)
    read = read_dataset(data, fit, images=images, split="valid", trust_pictures=trust_pictures, progress=progress)
    check_classes("the checkpoint", network.class_names, read.class_names, data)
    return in_class_order(read, network.class_names)
