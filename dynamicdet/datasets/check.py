"""Checks data sets without using them: every picture is read, and all faults are listed, not only the first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.annotations import read_annotations
from dynamicdet.datasets.findings import DataSummary, Finding
from dynamicdet.datasets.frames import fit, read_frames
from dynamicdet.datasets.layout import Place, locate_all
from dynamicdet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """What one data set has, and everything that is wrong or unusual in it."""

    place: Place
    summary: DataSummary
    findings: tuple[Finding, ...]
    """faults first, the most important one first"""
    error: InputError | None
    """one sentence with the most important fault; None if the data set can be used"""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "annotations": str(self.place.annotations),
            "image_folder": str(self.place.images),
            "usable": self.error is None,
            "images": self.summary.images,
            "objects": self.summary.objects,
            "classes": self.summary.classes,
            "findings": [asdict(finding) for finding in self.findings],
            "error": None if self.error is None else str(self.error),
        }


def check_data(
    source: Path | str,
    images: Path | str | None = None,
    *,
    fast: bool = False,
    trust_pictures: bool = False,
    progress: Progress = silent,
) -> tuple[CheckedData, ...]:
    """Check the data set at `source`, or each split of an export; see `layout.locate_all`.

    Every picture is decoded; with `fast`, only its header is read. `trust_pictures` is that of `read_dataset`. Raises
    InputError if there are no annotations that can be read at all.
    """
    return tuple(
        _check(place, fast=fast, trust_pictures=trust_pictures, progress=progress)
        for place in locate_all(source, images)
    )


def _check(place: Place, *, fast: bool, trust_pictures: bool, progress: Progress) -> CheckedData:
    files = read_annotations(place)
    frames = read_frames(files, whole=not fast, progress=progress)
    table, sizes = fit(files, frames, trust_pictures=trust_pictures)
    usable = files.settle(table, sizes)
    return CheckedData(
        place=place,
        summary=files.summary(usable),
        findings=files.findings.all(),
        error=files.findings.error(place.annotations),
    )
