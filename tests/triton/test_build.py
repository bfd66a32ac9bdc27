"""`dyndet-build` on the real server: the whole line, and what a second run does not repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamicdet.errors import InputError, TargetOutOfReachError
from dyndet_builder.build import BuildOptions, build
from dyndet_builder.effort import Effort
from dyndet_builder.render import RenderOptions
from dyndet_builder.steps import locked
from dyndet_builder.targets import parse_targets

# Short runs on a machine that is busy with tests: the arithmetic is proven here, not the precision.
_EFFORT = Effort(
    max_images=24,
    requests_per_run=20,
    range_rounds=1,
    trial_rounds=1,
    verification_rounds=1,
    extra_trial_rounds=1,
    tolerance=0.9,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build") / "out"


def _build(output: Path, checkpoint: Path, images: Path, target: str, *, threads: int = 0) -> tuple[str, ...]:
    options = BuildOptions(rendering=RenderOptions(name="dyndet", threads=threads), effort=_EFFORT)
    return build(checkpoint, output, images=images, targets=parse_targets(target), options=options).reused


def test_a_second_run_repeats_only_what_changed(built: Path, demo_checkpoint: Path, demo_images: Path) -> None:
    half, fifth = "50%", "20%"
    assert _build(built, demo_checkpoint, demo_images, half) == ()
    points = built / "model_repository" / "dyndet" / "1" / "operating_points.json"
    first = points.read_bytes()
    assert json.loads(first)["default"] == "50%"

    assert _build(built, demo_checkpoint, demo_images, half) == ("export", "render", "calibrate")
    assert points.read_bytes() == first

    assert _build(built, demo_checkpoint, demo_images, fifth) == ("export", "render")
    assert set(json.loads(points.read_text())["points"]) == {"50%", "20%"}

    before = points.read_bytes()
    with pytest.raises(TargetOutOfReachError, match="ms"):
        _build(built, demo_checkpoint, demo_images, "0.01ms")
    assert points.read_bytes() == before

    assert _build(built, demo_checkpoint, demo_images, half, threads=1) == ("export",)


def test_two_builds_in_one_folder_are_refused(tmp_path: Path, demo_checkpoint: Path, demo_images: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another dyndet-build"):
        _build(tmp_path, demo_checkpoint, demo_images, "50%")
