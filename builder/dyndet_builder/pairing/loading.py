"""Makes the detectors of a comparison ready to run: their specs, common classes, and merged graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.detectors.graph import build_graph
from dyndet_builder.detectors.inspect import spec_for
from dyndet_builder.detectors.layers import Given
from dyndet_builder.detectors.runner import DetectorRunner
from dyndet_builder.pairing.classes import LEFT_OUT, ClassMap, ClassPolicy, match_classes
from dyndet_builder.pairing.report.record import Role
from dyndet_builder.pairing.running import Running

_LONGEST_NAME = 40
Table = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Described:
    """A detector's file with its spec."""

    role: Role
    name: str
    """by its file, for people"""
    file: Path
    spec: DetectorSpec

    @property
    def fit(self) -> Fit:
        """Its own rule."""
        return self.spec.input.fit

    def graph(
        self, classes: Sequence[int], *, fit: Fit | None = None, calibration: Table = (), nms: Nms | None = None
    ) -> onnx.ModelProto:
        """The merged graph for pictures fitted by a rule, by default its own; `classes` as in `build_graph`."""
        return build_graph(
            self.file,
            self.spec,
            fit=fit or self.fit,
            nms=nms or Nms(),
            classes=classes,
            calibration=tuple(calibration),
        )

    def running(self, classes: Sequence[int], *, fit: Fit | None = None) -> Running:
        """The merged graph in ONNX Runtime."""
        return Running(runner=DetectorRunner(self.graph(classes, fit=fit), file=self.file), fit=fit or self.fit)


@dataclass(frozen=True, kw_only=True)
class Common:
    """The common class list of the detectors, and the number in it of each class of each detector."""

    names: tuple[str, ...]
    numbers: tuple[tuple[int, ...], ...]
    """of the detectors in their order"""
    left_out: tuple[tuple[str, ...], ...]
    """classes of each detector whose objects are left out"""


def describe(
    small: Path,
    large: Path,
    also: Sequence[Path],
    *,
    specs: Sequence[Path | None],
) -> tuple[Described, ...]:
    """Read the detectors, and their `detector.yaml` (`specs`, in the same order); None: what the file itself tells.

    Raises InputError for a file that is no detector of a known family, and with the questions that are open.
    """
    files = (small, large, *also)
    further: list[Role] = ["also"] * len(also)
    roles: tuple[Role, ...] = ("small", "large", *further)
    seen = [file.resolve() for file in files]
    if len(set(seen)) < len(seen):
        twice = next(file for number, file in enumerate(files) if seen[number] in seen[:number])
        raise InputError(f"{printable(twice)} was given twice; the detectors must be different files")
    given = [*specs, *(None for _ in range(len(files) - len(specs)))]
    found = [spec_for(file, given=Given(spec_file=spec)) for file, spec in zip(files, given, strict=True)]
    return tuple(
        Described(role=role, name=name, file=file, spec=spec)
        for role, name, file, spec in zip(roles, _names(files), files, found, strict=True)
    )


def common_classes(detectors: Sequence[Described], policy: ClassPolicy) -> Common:
    """Match the classes of all detectors. Raises InputError where the policy does not allow their differences."""
    small, large, *others = detectors
    match = match_classes(small.spec.class_names, large.spec.class_names, policy=policy)
    numbers = [match.small, match.large, *(_numbers(one, match.names, small, large, policy) for one in others)]
    return Common(
        names=match.names,
        numbers=tuple(numbers),
        left_out=tuple(
            tuple(name for name, number in zip(one.spec.class_names, own, strict=True) if number == LEFT_OUT)
            for one, own in zip(detectors, numbers, strict=True)
        ),
    )


def _numbers(
    one: Described, names: Sequence[str], small: Described, large: Described, policy: ClassPolicy
) -> tuple[int, ...]:
    """The common number of each class of a further detector, which must know all common classes."""
    if isinstance(policy, ClassMap):
        try:
            return match_classes(small.spec.class_names, one.spec.class_names, policy=policy).large
        except InputError:
            return match_classes(one.spec.class_names, large.spec.class_names, policy=policy).small
    match = match_classes(one.spec.class_names, names, policy="shared")
    missing = [name for name in names if name not in match.names]
    if missing:
        raise InputError(
            f"{printable(one.file)} does not know the class {printable(repr(missing[0]), limit=60)} ({len(missing)} of "
            f"{len(names)} are missing), so it cannot be compared with the pair; leave it out, or map the classes"
        )
    return match.small


def _names(files: Sequence[Path]) -> list[str]:
    """A short name for each file: its stem, with its folder or its number where stems are equal."""
    stems = [file.stem for file in files]
    if len(set(stems)) < len(stems):
        stems = [f"{file.resolve().parent.name}/{file.stem}" for file in files]
    if len(set(stems)) < len(stems):
        stems = [f"{stem} ({number})" for number, stem in enumerate(stems, 1)]
    return [printable(stem, limit=_LONGEST_NAME) for stem in stems]
