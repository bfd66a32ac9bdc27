"""What points promise under load: after a calibration, after another one, and after the commands that change it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.calibration.following import recalibrated
from dyndet_builder.cli import dyndet, run
from dyndet_builder.operating_points import (
    FollowLoad,
    OperatingPoint,
    OperatingPoints,
    Tenant,
    points_file,
    read_operating_points,
)
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered
from tests.support.deployments import calibrate, points
from tests.support.toy_bundle import write_toy_bundle

EASY_MEAN_MS = 8.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture
def repository(bundle: Path, tmp_path: Path) -> Path:
    """Calibrated for p99:20ms, before thresholds followed the load."""
    return calibrate(render(bundle, tmp_path / "models"), "toy", points())


def _again(earlier: OperatingPoints | None, measured: OperatingPoints, **switches: bool | None) -> OperatingPoints:
    assert measured.evidence is not None
    return recalibrated(earlier, measured.points, measured.evidence, **switches)


def _followed(content: OperatingPoints) -> FollowLoad | None:
    return content.points[content.default].followed


def test_a_calibration_promises_what_its_target_says_about_a_single_request() -> None:
    percentile, mean = _followed(_again(None, points())), _followed(_again(None, points(statistic="mean", goal=9.2)))
    assert percentile is not None and (percentile.statistic, percentile.promise_ms) == ("p99", 20)
    assert mean is not None and (mean.statistic, mean.promise_ms) == ("p95", 10 * EASY_MEAN_MS)
    throughput = points(statistic="throughput", goal=80, unit="/s")
    assert _again(None, throughput, switched=True).points[throughput.default].follow_load is None


@pytest.mark.parametrize(
    ("switched", "rendered", "follows"),
    [(None, None, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_the_option_of_the_calibration_comes_before_that_of_the_rendering(
    switched: bool | None, rendered: bool | None, follows: bool
) -> None:
    assert (_followed(_again(None, points(), switched=switched, rendered=rendered)) is not None) == follows


def test_what_a_user_set_for_a_point_stays_and_a_promise_of_a_calibration_is_renewed() -> None:
    mean = points(statistic="mean", goal=9.2)
    first = _again(None, mean)
    name, tenants = first.default, {"street": Tenant(hard_per_s=3, burst=5, operating_point=first.default)}

    def calibrated_again(**set_by_user: object) -> FollowLoad | None:
        follow = first.points[name].follow_load
        assert follow is not None
        changed = first.points[name].model_copy(update={"follow_load": follow.model_copy(update=set_by_user)})
        earlier = first.model_copy(update={"points": {name: changed}, "tenants": tenants})
        found = _again(earlier, mean, rendered=True)
        assert found.tenants == tenants
        return found.points[name].follow_load

    assert calibrated_again(promise_ms=5.0) == first.points[name].follow_load
    users = {"promise_ms": 90.0, "statistic": "p90", "promised_by": "user", "ceiling": 0.9, "enabled": False}
    kept = calibrated_again(**users)
    assert kept is not None and kept.model_dump() == {**users, "floor": None}
    raised = calibrated_again(ceiling=0.2)  # the new threshold, 0.4, is above it
    assert raised is not None and raised.ceiling == 0.4


def test_a_new_rendering_keeps_tenants_and_has_the_bound_of_the_queue(bundle: Path, tmp_path: Path) -> None:
    repository = calibrate(render(bundle, tmp_path / "models"), "toy", points())
    words = ["tenant", "set", str(repository), "street", "--hard-per-second", "3", "--operating-point", "p99:20ms"]
    assert run(dyndet, words) == 0
    words = ["render", str(bundle), str(repository), "--queue-size", "7", "--no-follow-load", "--no-warmup"]
    assert run(dyndet, words) == 0
    written = read_operating_points(points_file(repository, "toy"))
    assert written.tenants == {"street": Tenant(hard_per_s=3, burst=3)}  # its operating point is gone
    assert json.loads((repository / "toy" / "1" / "dyndet.json").read_text())["queue"] == 7
    options = read_rendered(repository).options
    assert (options.queue_size, options.follow_load) == (7, False)
    assert run(dyndet, ["render", str(bundle), str(repository), "--queue-size", "0"]) == 2
    with pytest.raises(InputError, match="queue_size must be a whole number from 1"):
        RenderOptions(queue_size=0)


def test_following_is_shown_and_changed_on_the_command_line(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def changed(*words: str) -> FollowLoad | None:
        assert run(dyndet, ["follow", str(repository), *words]) == 0
        return _followed(read_operating_points(points_file(repository, "toy")))

    assert changed() is None
    assert "none" in capsys.readouterr().out
    follow = changed("--promise", "p95:90ms", "--floor", "0.3", "--ceiling", "0.9")
    assert follow is not None and follow.promise == "p95:90ms" and follow.promised_by == "user"
    assert (follow.floor, follow.ceiling) == (0.3, 0.9)
    assert "takes it up at once" in capsys.readouterr().out
    assert changed("--point", "p99:20ms", "--off") is None
    capsys.readouterr()
    assert changed("--on", "--json") == follow
    assert json.loads(capsys.readouterr().out)["points"]["p99:20ms"]["follow_load"]["ceiling"] == 0.9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["follow", "--on"], "promises no latency under load"),
        *(
            (["follow", "--promise", wrong], "is not a percentile in milliseconds, which is what a detector can keep")
            for wrong in ("12ms", "p95:1e-9ns", "p95:0ms", "throughput:80/s", "50%")
        ),
        (["follow", "--promise", "p95:8ms"], "easy images alone take 8 ms"),
        (["follow", "--promise", "p95:90ms", "--floor", "0.9", "--ceiling", "0.5"], "above the ceiling 0.5"),
        (["follow", "--promise", "p95:90ms", "--ceiling", "0.1"], "the threshold 0.4"),
        (["follow", "--promise", "p95:90ms", "--floor", "nan"], "a number from 0 to 1"),
        (["follow", "--point", "fast", "--on"], "'fast' is not known"),
        (["follow", "--point", "p99:20ms"], "needs a change"),
        (["tenant", "set", "a b", "--hard-per-second", "1"], "cannot be the name of a tenant"),
        (["tenant", "set", "other", "--hard-per-second", "1"], "unknown tenants"),
        (["tenant", "set", "street", "--hard-per-second", "-1"], "a number from 0"),
        (["tenant", "set", "street", "--hard-per-second", "1", "--burst", "0.5"], "a number from 1"),
        (["tenant", "set", "street", "--hard-per-second", "1", "--operating-point", "fast"], "'fast' is not known"),
        (["tenant", "remove", "street"], "no tenant 'street'"),
    ],
)
def test_contradictions_are_refused_in_one_sentence_and_nothing_is_written(
    words: list[str], said: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = points_file(repository, "toy")
    before = file.read_bytes(), file.stat().st_mtime_ns
    after_command = 2 if words[0] == "tenant" else 1
    assert run(dyndet, [*words[:after_command], str(repository), *words[after_command:]]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_file_that_contradicts_itself_is_refused(repository: Path) -> None:
    file = points_file(repository, "toy")
    point = OperatingPoint(threshold=0.4).model_dump()
    for spoilt in (
        {"points": {"a": {**point, "follow_load": {"promise_ms": 90, "floor": 0.9, "ceiling": 0.5}}}},
        {"points": {"a": {**point, "follow_load": {"promise_ms": 90, "statistic": "mean"}}}},
        {"points": {"a": point}, "tenants": {"street": {"hard_per_s": 1, "burst": 1, "operating_point": "b"}}},
        {"points": {"a": point}, "tenants": {"other": {"hard_per_s": 1, "burst": 1}}},
    ):
        file.write_text(json.dumps({"schema_version": 2, "default": "a", **spoilt}))
        with pytest.raises(InputError, match="is not a file of operating points"):
            read_operating_points(file)
