"""`dyndet-build` on the real server: the whole line, and what a second run does not repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamicdet import create, load, save
from dynamicdet.errors import InputError, TargetOutOfReachError
from dyndet_builder.build import BuildOptions, build
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.repository.render import RenderOptions
from dyndet_builder.steps import locked
from dyndet_builder.targets import parse_targets

# Short runs on a machine that is busy with tests: the arithmetic is proven here, not the precision. A late answer, one
# of a dozen, moves a mean by more than detector 2 costs. It does not move a median, so that is the target.
_EFFORT = Effort(
    max_images=24,
    requests_per_run=12,
    range_rounds=1,
    trial_rounds=1,
    verification_rounds=1,
    extra_trial_rounds=1,
    tolerance=0.9,
    accept_ill_conditioned=True,
)
_HALF = "p50:50%"


@pytest.fixture
def small_checkpoint(demo_checkpoint: Path, tmp_path: Path) -> Path:
    """The demo's weights for pictures of 192 px, which takes a third of the time to prove and to measure."""
    known = load(demo_checkpoint)
    small = create(known.spec.name, len(known.class_names), known.class_names, input_size=192)
    small.router = small.fresh_router(known.router.form)
    small.load_state_dict(known.state_dict())
    save(small, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def _build(
    output: Path, checkpoint: Path, images: Path, target: str = _HALF, *, threads: int = 0, told: set[str] | None = None
) -> tuple[str, ...]:
    """The steps that were reused; `told` gets the names of the steps that were done."""
    options = BuildOptions(
        topology="bls",
        rendering=RenderOptions(threads=threads),
        effort=_EFFORT,
        exporter="torchscript",  # faster than the current one, which the bundle of all tests is made with
        parity_images=4,
    )
    steps = set() if told is None else told
    return build(
        checkpoint,
        output,
        images=images,
        targets=parse_targets(target),
        options=options,
        progress=lambda step, _done, _of: steps.add(step),
    ).reused


def test_a_second_run_repeats_only_what_changed(small_checkpoint: Path, demo_images: Path, tmp_path: Path) -> None:
    """A target out of reach repeats only the calibration, and the earlier result stays in force."""
    built = tmp_path / "out"
    points = built / "model_repository" / "dyndet" / "1" / "operating_points.json"
    made, rendered, served = "export graphs", "render the repository", "start the server"

    told: set[str] = set()
    assert _build(built, small_checkpoint, demo_images, told=told) == ()
    assert told >= {made, rendered, served}
    first = points.read_bytes()
    assert json.loads(first)["default"] == _HALF

    told.clear()
    assert _build(built, small_checkpoint, demo_images, told=told) == ("export", "render", "calibrate")
    assert not told
    assert points.read_bytes() == first

    with pytest.raises(TargetOutOfReachError, match="ms"):
        _build(built, small_checkpoint, demo_images, "p50:0.01ms", told=told)
    assert served in told and not told & {made, rendered}
    assert points.read_bytes() == first

    assert _build(built, small_checkpoint, demo_images, "p50:20%", threads=1) == ("export",)
    assert set(json.loads(points.read_text())["points"]) == {"p50:20%"}


def test_two_builds_in_one_folder_are_refused(tmp_path: Path, demo_checkpoint: Path, demo_images: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another dyndet-build"):
        _build(tmp_path, demo_checkpoint, demo_images)
