"""Checks data sets without using them: every picture is read, and all faults are listed, not only the first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dynamicdet.aliases import IntArray, Progress, silent
from dynamicdet.datasets.annotations import CocoFiles, read_annotations
from dynamicdet.datasets.findings import DataSummary, Finding, Findings
from dynamicdet.datasets.frames import read_frames
from dynamicdet.datasets.layout import Place, locate_all
from dynamicdet.datasets.masks import read_masks
from dynamicdet.datasets.objects import ObjectTable
from dynamicdet.datasets.placing import InFrames, fit
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
            "masks": self.summary.masks,
            "findings": [asdict(finding) for finding in self.findings],
            "error": None if self.error is None else str(self.error),
        }


def check_data(
    source: Path | str,
    images: Path | str | None = None,
    *,
    fast: bool = False,
    trust_pictures: bool = False,
    masks: bool = False,
    progress: Progress = silent,
) -> tuple[CheckedData, ...]:
    """Check the data set at `source`, or each split of an export; see `layout.locate_all`.

    Every picture is decoded; with `fast`, only its header is read. `trust_pictures` and `masks` are those of
    `read_dataset`. Without `masks`, segmentations are checked too, but what is wrong with them is only noted. Raises
    InputError if there are no annotations that can be read at all.
    """
    return tuple(
        _check(place, fast=fast, trust_pictures=trust_pictures, masks=masks, progress=progress)
        for place in locate_all(source, images)
    )


def _check(place: Place, *, fast: bool, trust_pictures: bool, masks: bool, progress: Progress) -> CheckedData:
    files = read_annotations(place, masks=True)
    frames = read_frames(files, whole=not fast, progress=progress)
    placed = fit(files, frames, trust_pictures=trust_pictures)
    usable = files.settle(placed.table, placed.sizes)
    count = _check_masks(files, usable, frames, placed, needed=masks)
    return CheckedData(
        place=place,
        summary=files.summary(usable, count),
        findings=files.findings.all(),
        error=files.findings.error(place.annotations),
    )


def _check_masks(files: CocoFiles, usable: ObjectTable, frames: IntArray, placed: InFrames, *, needed: bool) -> int:
    """Add what is wrong with masks to the findings, as notes unless they are `needed`; the number of usable ones."""
    given = sum(files.segmentations[entry] not in (None, [], {}) for entry in usable.entry[~usable.crowd].tolist())
    if not (given or needed):
        return 0
    if not needed and find_spec("pycocotools") is None:
        files.findings.add("unchecked", "", count=given)
        return 0
    found = Findings()
    read_masks(files, usable, frames, placed, found)
    files.findings.absorb(found, faults_as="" if needed else "masks")
    faulty = sum(finding.count for finding in found.all() if finding.fatal)
    return max(0, int((~usable.crowd).sum()) - faulty)
