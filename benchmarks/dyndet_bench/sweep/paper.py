"""The paper's table of trade-offs, and the error of calibration's latency model for it.

DynamicDet (CVPR 2023), slides, "State-of-the-art trade-offs": FPS on one V100, fp16, batch 1; AP on COCO test-dev.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynamicdet.errors import InputError
from dynamicdet.records import Positive
from dynamicdet.thresholds import mixture_latency
from dyndet_bench.sweep.record import PaperCheck

FITTED_ROWS = (10, 100)
"""Hard percentages of the two rows that give lat1 and lat2. They are furthest apart, so the rounding of their FPS to
whole numbers matters least. The rows of 90 % and 100 % differ by little more than this rounding."""


@dataclass(frozen=True)
class PaperRow:
    """One row of the table."""

    hard_percent: int
    """images sent to detector 2"""
    gflops: float
    fps: int
    ap: float

    @property
    def hard_share(self) -> float:
        """Share of images sent to detector 2."""
        return self.hard_percent / 100

    @property
    def latency_ms(self) -> float:
        """Mean latency of an image."""
        return 1e3 / self.fps


@dataclass(frozen=True)
class PaperModel:
    """One network of the table."""

    name: str
    architecture: str
    input_size: int
    rows: tuple[PaperRow, ...]

    def row(self, hard_percent: int) -> PaperRow:
        """The row of this share of hard images. Raises InputError if the paper has no such row."""
        for row in self.rows:
            if row.hard_percent == hard_percent:
                return row
        percentages = ", ".join(str(row.hard_percent) for row in self.rows)
        raise InputError(f"the paper has no {self.name} with {hard_percent} % hard images; it has {percentages}")


PAPER = (
    PaperModel(
        "Dy-YOLOv7",
        "dy-yolov7",
        640,
        (
            PaperRow(10, 112.4, 110, 52.1),
            PaperRow(50, 143.2, 96, 53.3),
            PaperRow(90, 174.0, 85, 53.8),
            PaperRow(100, 181.7, 83, 53.9),
        ),
    ),
    PaperModel(
        "Dy-YOLOv7-X",
        "dy-yolov7-x",
        640,
        (
            PaperRow(10, 201.7, 98, 53.3),
            PaperRow(50, 248.9, 78, 54.4),
            PaperRow(90, 296.1, 65, 55.0),
            PaperRow(100, 307.9, 64, 55.0),
        ),
    ),
    PaperModel(
        "Dy-YOLOv7-W6",
        "dy-yolov7-w6",
        1280,
        (
            PaperRow(10, 384.2, 74, 55.2),
            PaperRow(50, 480.8, 58, 56.1),
            PaperRow(90, 577.4, 48, 56.7),
            PaperRow(100, 601.6, 46, 56.8),
        ),
    ),
)


@dataclass(frozen=True)
class RouteTimes:
    """Latency of an all-easy and an all-hard detector, which gives that of any mix."""

    lat1_ms: Positive
    lat2_ms: Positive

    def fps(self, hard_share: float) -> float:
        """Images a second when this share of them is hard (0..1)."""
        return 1e3 / mixture_latency(self.lat1_ms, self.lat2_ms, 1.0 - hard_share)


def fit_routes(model: PaperModel, rows: tuple[int, int] = FITTED_ROWS) -> RouteTimes:
    """lat1 and lat2 from two rows: a row's latency is lat1 + hard share x (lat2 - lat1), the rule of calibration.

    Raises InputError if the rows are the same, or not in the table.
    """
    first, second = (model.row(percent) for percent in rows)
    if first == second:
        raise InputError(f"two different rows are needed to fit lat1 and lat2, got {first.hard_percent} % twice")
    slope = (second.latency_ms - first.latency_ms) / (second.hard_share - first.hard_share)  # lat2 - lat1
    lat1 = first.latency_ms - first.hard_share * slope
    return RouteTimes(lat1_ms=lat1, lat2_ms=lat1 + slope)


def check_paper(rows: tuple[int, int] = FITTED_ROWS) -> tuple[PaperCheck, ...]:
    """How far the latency model, fitted to two rows, is from the FPS of each network's other rows."""
    return tuple(_check(model, rows) for model in PAPER)


def _check(model: PaperModel, rows: tuple[int, int]) -> PaperCheck:
    times = fit_routes(model, rows)
    errors = [abs(times.fps(row.hard_share) / row.fps - 1) for row in model.rows if row.hard_percent not in rows]
    return PaperCheck(
        model=model.name,
        lat1_ms=times.lat1_ms,
        lat2_ms=times.lat2_ms,
        fitted_rows=rows,
        largest_error=max(errors),
    )
