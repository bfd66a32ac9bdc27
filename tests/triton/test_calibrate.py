"""Calibration on the real server, with few requests: arithmetic and safety are proven here, not precision."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError, ServerError, TargetOutOfReachError, TooNoisyError
from dynamicdet.pictures import pictures_in
from dynamicdet.thresholds import easy_share
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.workload import read_letterboxed
from dyndet_builder.calibration.calibrate import Calibration, calibrate
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.cli import dyndet, run
from dyndet_builder.operating_points import OperatingPoint, OperatingPoints, read_operating_points
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.targets import parse_targets

_EFFORT = Effort(
    max_images=24,
    requests_per_run=12,
    range_rounds=1,
    trial_rounds=1,
    verification_rounds=2,
    extra_trial_rounds=0,
    tolerance=0.9,  # the machine is busy with tests
    time_budget_s=0,
    accept_ill_conditioned=True,
)
_HALF = parse_targets("p50:50%")
"""the median: one late answer among a dozen would make the mean of the easy route larger than that of the hard one"""
_SPOILT = retry_if_exception_type((TargetOutOfReachError, TooNoisyError))
"""a calibration that other programs made useless"""


@pytest.fixture
def repository(repository_folder: Path, tmp_path: Path) -> Path:
    """See `_repository`."""
    return _repository(repository_folder, tmp_path / "models")


def _repository(served: Path, folder: Path) -> Path:
    """A copy of the served repository, with a point that was calibrated earlier."""
    shutil.copytree(served / "dyndet", folder / "dyndet")
    points = OperatingPoints(default="9ms", points={"9ms": OperatingPoint(threshold=0.9, target="9ms")})
    _points(folder).write_text(points.model_dump_json())
    return folder


def _points(repository: Path) -> Path:
    return repository / "dyndet" / "1" / "operating_points.json"


_TARGETS = ("50%", "p75:60%", "throughput:30%")


@dataclass(frozen=True, kw_only=True)
class _Calibrated:
    """A calibration for three targets that was interrupted, went on, and was repeated."""

    repository: Path
    steps: tuple[str, ...]
    """until it was interrupted"""
    rounds: int
    """on record at that time"""
    result: Calibration
    again: Calibration


@pytest.fixture(scope="module")
def calibrated(
    server: TritonServer, repository_folder: Path, demo_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> _Calibrated:
    """One that needed no correction.

    The server shares two cores with its client. Where one of a dozen answers is late, detector 2 can seem to cost no
    time, or a threshold to miss its target. Such a calibration is made again, up to two times.
    """

    def once() -> _Calibrated:
        folder = tmp_path_factory.mktemp("calibrated")
        return _calibrated(server, _repository(repository_folder, folder / "models"), demo_images, folder / "kept")

    corrected = retry_if_result(lambda made: made.result.corrections > 0)
    return Retrying(stop=stop_after_attempt(3), retry=_SPOILT | corrected, reraise=True)(once)


def _calibrated(server: TritonServer, repository: Path, images: Path, kept: Path) -> _Calibrated:
    steps: list[str] = []

    def calibrated(progress: Progress) -> Calibration:
        return calibrate(
            server.grpc_url,
            images=images,
            targets=parse_targets(",".join(_TARGETS)),
            repository=repository,
            effort=_EFFORT,
            measurements=kept,
            progress=progress,
        )

    def interrupt(step: str, done: int, of: int) -> None:
        steps.append(step)
        if step.startswith("verify") and done == of // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrated(interrupt)
    (file,) = kept.glob("*.jsonl")
    rounds = file.read_text().count('"runs"')
    with file.open("a") as journal:
        journal.write('{"time": 1e12, "runs": [{"thresh')  # what a power cut leaves
    result, again = calibrated(silent), calibrated(silent)
    return _Calibrated(repository=repository, steps=tuple(steps), rounds=rounds, result=result, again=again)


@pytest.mark.timing
def test_the_result_holds_together(server: TritonServer, calibrated: _Calibrated, demo_images: Path) -> None:
    point, evidence = calibrated.result.points["50%"], calibrated.result.evidence
    assert evidence.easy.mean_ms < evidence.hard.mean_ms
    assert point.goal == pytest.approx((evidence.easy.mean_ms + evidence.hard.mean_ms) / 2)
    assert point.reached == pytest.approx(point.goal * (1 + point.error))
    assert point.interval is not None
    assert point.interval[0] <= point.error <= point.interval[1]
    assert point.goodput is not None
    assert 0 < point.goodput < 1
    assert (evidence.calibration_images, evidence.held_out_images) == (12, 12)
    assert evidence.easy.requests == evidence.hard.requests == 24
    assert evidence.reachable["throughput"].easy > evidence.reachable["throughput"].hard
    assert evidence.reachable["mean"].easy == evidence.easy.mean_ms
    assert list(evidence.difficulty_quantiles) == sorted(evidence.difficulty_quantiles)
    assert {"cpu", "cores"} <= evidence.machine.keys()
    assert {"triton", "perf_analyzer", "python"} <= evidence.versions.keys()

    # The share that the server counted is the one that the held-out images' difficulties give at this threshold.
    order = np.random.default_rng(0).permutation(len(pictures_in(demo_images)))[:24]
    held_out = [pictures_in(demo_images)[index] for index in order[12:]]
    with Served(server.grpc_url) as served:
        difficulties = served.difficulties(read_letterboxed(held_out, served.detector.fit))
    expected = easy_share(difficulties, point.threshold)
    assert point.easy_share == pytest.approx(expected)

    written = read_operating_points(_points(calibrated.repository))
    assert written.default == "50%"
    assert set(written.points) == {"9ms", *_TARGETS}
    assert {name: written.points[name] for name in _TARGETS} == calibrated.again.points  # the last calibration
    assert written.points["9ms"].threshold == 0.9
    assert point.followed is not None
    assert point.followed.promise_ms == pytest.approx(10 * evidence.easy.mean_ms)
    assert written.evidence == calibrated.again.evidence
    assert [path.name for path in _points(calibrated.repository).parent.glob(".*")] == []
    assert calibrated.steps[0] == "read images"
    assert "verify on held-out images" in calibrated.steps


@pytest.mark.parametrize("ms", [0.01, 60_000.0])
def test_a_target_out_of_reach_states_the_range_and_overwrites_nothing(
    server: TritonServer, repository: Path, demo_images: Path, ms: float, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _points(repository).read_bytes()
    command = ["calibrate", "--url", server.grpc_url, "--images", str(demo_images), "--repository", str(repository)]
    command += ["--rounds", "1", "--max-images", "16", "--fresh", "--target-latency", f"p50:{ms}ms"]
    assert run(dyndet, command) == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    assert "ask for" in error
    assert _points(repository).read_bytes() == before


def test_a_server_killed_in_the_middle_costs_nothing(
    repository_folder: Path, repository: Path, demo_images: Path
) -> None:
    before = _points(repository).read_bytes()
    with TritonServer(repository_folder) as own:

        def kill(step: str, done: int, of: int) -> None:
            if (step, done) == ("measure thresholds", 1):
                os.kill(own.pid, signal.SIGKILL)

        with pytest.raises(ServerError, match=r"^[^\n]*127\.0\.0\.1[^\n]*$"):
            calibrate(
                own.grpc_url,
                images=demo_images,
                targets=_HALF,
                repository=repository,
                effort=replace(_EFFORT, trial_rounds=2),
                progress=kill,
            )
    assert _points(repository).read_bytes() == before


def test_json_and_a_file_of_its_own(
    server: TritonServer, tmp_path: Path, demo_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "points.json"
    command = ["calibrate", "--url", server.grpc_url, "--images", str(demo_images), "--max-images", "16", "--json"]
    command += ["--requests", "8", "--rounds", "1", "--tolerance", "0.9", "--accept-ill-conditioned"]
    command += ["--target-latency", "p50:40%", "-o", str(output), "--measurements", str(tmp_path / "measurements")]
    assert run(dyndet, command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["operating_points"]["p50:40%"]["target"] == "p50:40%"
    assert printed["written"] == [str(output)]
    assert (
        read_operating_points(output).points["p50:40%"].threshold == printed["operating_points"]["p50:40%"]["threshold"]
    )


@pytest.mark.timing
def test_several_targets_share_their_rounds_and_an_interruption_loses_nothing(calibrated: _Calibrated) -> None:
    result, again = calibrated.result, calibrated.again
    assert calibrated.rounds == 3  # both routes; a trial of all targets; half of the verification
    assert result.evidence.rounds_replayed == 3
    assert list(result.points) == list(_TARGETS)
    assert [point.statistic for point in result.points.values()] == ["mean", "p75", "throughput"]
    for point in result.points.values():
        assert point.reached == pytest.approx(point.goal, rel=0.9)
        assert set(point.percentiles_ms or {}) == {"p50", "p90", "p95", "p99"}
    assert result.points["p75:60%"].goodput is not None
    assert result.points["throughput:30%"].goodput is None

    # The same again measures nothing, and gives the same.
    assert [point.threshold for point in again.points.values()] == [point.threshold for point in result.points.values()]
    assert again.evidence.rounds_replayed == 4


def test_an_open_loop_counts_from_when_requests_were_due(server: TritonServer, demo_images: Path) -> None:
    with pytest.raises(InputError, match="throughput is given"):
        calibrate(
            server.grpc_url,
            images=demo_images,
            targets=parse_targets("throughput:5/s"),
            load=Load(request_rate=5),
        )

    def once() -> Calibration:
        return calibrate(
            server.grpc_url,
            images=demo_images,
            targets=_HALF,
            load=Load(request_rate=12),
            effort=replace(_EFFORT, requests_per_run=12, verification_rounds=1),
        )

    # The routes are measured one after the other: where another test begins in between, detector 2 can seem faster.
    result = Retrying(stop=stop_after_attempt(3), retry=_SPOILT, reraise=True)(once)
    assert (result.evidence.request_rate, result.evidence.concurrency) == (12, None)
    assert result.evidence.load == "12 requests/s"
    assert result.points["p50:50%"].goodput is not None


def _few(folder: Path, images: Path) -> None:
    folder.mkdir()
    for file in pictures_in(images)[:3]:
        shutil.copy(file, folder)


def _broken(folder: Path, images: Path) -> None:
    folder.mkdir()
    for file in pictures_in(images)[:20]:
        shutil.copy(file, folder)
    (folder / "zero.jpg").write_bytes(b"")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder, images: None, "does not exist"),
        (lambda folder, images: folder.mkdir(), "holds no images"),
        (_few, "needs at least 8"),
        (_broken, r"zero\.jpg"),
    ],
)
def test_unusable_images_are_named(
    server: TritonServer, tmp_path: Path, demo_images: Path, prepare: Callable[[Path, Path], None], said: str
) -> None:
    folder = tmp_path / "pictures"
    prepare(folder, demo_images)
    with pytest.raises(InputError, match=said):
        calibrate(server.grpc_url, images=folder, targets=_HALF, effort=_EFFORT)


def test_a_model_that_is_not_ours_is_refused(server: TritonServer, demo_images: Path) -> None:
    with pytest.raises(ServerError, match=r"dyndet_head1.*not a dyndet detector"):
        calibrate(server.grpc_url, model="dyndet_head1", images=demo_images, targets=_HALF)


def test_no_server_at_the_address(demo_images: Path) -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
        calibrate("127.0.0.1:9", images=demo_images, targets=parse_targets("9ms"))


def test_a_wrong_repository_is_refused_before_anything_is_measured(tmp_path: Path, demo_images: Path) -> None:
    with pytest.raises(InputError, match="not a repository with a model 'dyndet'"):
        calibrate("127.0.0.1:9", images=demo_images, targets=_HALF, repository=tmp_path)
