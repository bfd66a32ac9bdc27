"""COCO average precision of a static detector, which has one route."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.evaluation.precision import Precision, average_precision
from dynamicdet.networks.network import StaticDetector
from dynamicdet.routing.routes import check_fits, in_original
from dynamicdet.suppression import Detections, Suppression, suppress_rows, suppression_for


@dataclass(frozen=True, kw_only=True)
class StaticEvaluation:
    """Average precision of one detector that answers every image."""

    images: int
    precision: Precision
    pass_s: float
    """seconds for all images, suppression included"""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"images": self.images, "ap": asdict(self.precision), "seconds": {"pass": self.pass_s}}


def evaluate_static(
    model: StaticDetector, data: CocoDataset, *, batch: int = 16, progress: Progress = silent
) -> StaticEvaluation:
    """Average precision of a static detector on a data set read at its input size.

    Raises InputError if classes or size of network and data differ.
    """
    start = time.perf_counter()
    found = run_static(model, data, batch=batch, progress=progress)
    seconds = time.perf_counter() - start
    return StaticEvaluation(images=len(data), precision=average_precision(found, data), pass_s=seconds)


@torch.inference_mode()
def run_static(
    model: StaticDetector,
    data: CocoDataset,
    *,
    batch: int = 16,
    settings: Suppression | None = None,
    progress: Progress = silent,
) -> Sequence[Detections]:
    """Detections of every image, in pixels of the original images. Raises InputError if classes or size do not fit."""
    check_fits(model, data)
    network = model.deploy().eval()
    settings = settings or suppression_for(model.input_size)
    found: list[Detections] = []
    for first in range(0, len(data), batch):
        pictures = torch.from_numpy(np.ascontiguousarray(data.images[first : first + batch]))
        rows = network(pictures.permute(0, 3, 1, 2).float().div_(255))
        found.extend(in_original(data, first, suppress_rows(rows, settings, size=float(data.size))))
        progress("run the detector", len(found), len(data))
    return found
