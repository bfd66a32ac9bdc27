"""Plans: against closed forms, against each other, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicdet.errors import InputError, TargetOutOfReachError
from dyndet_bench.measuring.machine import circumstances
from dyndet_bench.sweep.record import FILE_NAME, Cell, Latency, RouteLatencies, Sweep
from dyndet_builder.cli import dyndet, run
from dyndet_builder.deployment.plan import plan
from dyndet_builder.deployment.plan_check import check_against
from dyndet_builder.deployment.plan_replica import Replica, Route, replica_of_points, replica_of_sweep
from dyndet_builder.repository.render import RenderOptions, render
from tests.support.deployments import EASY_SHARE, calibrate, following, points
from tests.support.loads import load_record
from tests.support.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Easy images take 8 ms, 70 % of them; hard ones 12 ms."""
    folder = tmp_path_factory.mktemp("plan")
    options = RenderOptions(backend="onnxruntime", gpus=(0, 1))
    return calibrate(render(write_toy_bundle(folder / "bundle"), folder / "models", options), "toy", points())


def test_one_route_of_equal_times_waits_as_m_d_1(repository: Path) -> None:
    """Mean s + rho s / (2 (1 - rho)), whose inverse is the most that a replica can take."""
    for rate in (40.0, 300.0):
        found = plan(repository, request_rate=rate, promise="12ms", hard_share=0, margin=0)
        for row in found.rows:
            busy = rate / row.replicas * 0.008
            assert row.utilisation == pytest.approx(busy)
            assert row.mean_ms == pytest.approx(8 + busy * 8 / (2 * (1 - busy)), rel=0.03)
        # 12 ms at a utilisation of a half
        assert found.replicas == pytest.approx(np.ceil(rate * 0.008 / 0.5), abs=1)


def test_the_answer_is_the_fewest_that_hold_with_the_margin(repository: Path) -> None:
    found = plan(repository, request_rate=500, promise="p95:30ms")
    assert found.hard_share == pytest.approx(1 - EASY_SHARE)
    assert found.busy_ms == pytest.approx(0.7 * 8 + 0.3 * 12)
    assert found.gpus == 2 * found.replicas
    assert found.limit_ms == pytest.approx(27)
    verdicts = {row.replicas: row.holds for row in found.rows}
    assert verdicts[found.replicas] and verdicts[found.replicas + 1] and not verdicts[found.replicas - 1]
    assert all(row.promised_ms == row.p95_ms for row in found.rows)
    assert any("Poisson" in text for text in found.assumptions)


@settings(max_examples=8, deadline=None)
@given(rate=st.floats(1, 2000), more=st.floats(1.01, 3), promise=st.floats(25, 100), looser=st.floats(1, 3))
def test_more_requests_never_need_fewer_and_looser_promises_never_more(
    repository: Path, rate: float, more: float, promise: float, looser: float
) -> None:
    def replicas(rate: float, promise: float) -> int:
        return plan(repository, request_rate=rate, promise=f"p99:{promise:.6f}ms").replicas

    assert replicas(rate, promise) <= replicas(rate * more, promise)
    assert replicas(rate, promise) >= replicas(rate, promise * looser)


def test_quantiles_of_a_calibration_keep_its_mean_and_percentiles() -> None:
    measured = points()
    assert measured.evidence is not None
    easy = measured.evidence.easy.model_copy(
        update={"mean_ms": 10.0, "p50_ms": 9.0, "p90_ms": 14.0, "p95_ms": 18.0, "p99_ms": 30.0}
    )
    given = measured.model_copy(update={"evidence": measured.evidence.model_copy(update={"easy": easy})})
    replica = replica_of_points(given, given.default, Path("points")).with_hard_share(0)
    alone = replica.alone_ms()
    assert alone.mean() == pytest.approx(10.0, rel=0.03)
    for level, value in ((0.5, 9.0), (0.9, 14.0), (0.95, 18.0), (0.99, 30.0)):
        assert np.quantile(alone, level) == pytest.approx(value, rel=0.03)


def _sweep(*, overlap: float, slower: float = 1.0) -> Sweep:
    """As a replica is measured whose requests keep it busy for a share of their latency, `slower` in open loops."""
    routes = {
        name: Route(quantiles_ms=np.linspace(low, low + 4, 101), busy_share=overlap)
        for name, low in (("easy", 6.0), ("hard", 14.0))
    }
    cells = []
    for hard in (0.0, 0.5, 1.0):
        replica = Replica(easy=routes["easy"], hard=routes["hard"], hard_share=hard)
        for clients in (1, 2, 8):
            latencies = replica.closed_loop_ms(clients)
            cells.append(_cell(1 - hard, hard, latencies, concurrency=clients))
        cells.append(_cell(1 - hard, hard, slower * replica.open_loop_ms(30), request_rate=30.0))
    return Sweep(
        model="dyndet",
        url="127.0.0.1:8001",
        bundle_sha256=None,
        class_names=("one",),
        input_size=320,
        images="photos",
        image_count=10,
        repetitions=1,
        cells=tuple(cells),
        routes={
            name: RouteLatencies(quantiles_ms=tuple(route.quantiles_ms), mean_ms=route.mean_ms, requests=100)
            for name, route in routes.items()
        },
        difficulties=(0.5,),
        circumstances=circumstances(),
    )


def _cell(
    threshold: float,
    hard: float,
    latencies: np.ndarray,
    *,
    concurrency: int | None = None,
    request_rate: float | None = None,
) -> Cell:
    found = Latency(
        mean_ms=latencies.mean(), **{f"p{level}_ms": np.percentile(latencies, level) for level in (50, 90, 95, 99)}
    )
    return Cell(
        threshold=threshold,
        concurrency=concurrency,
        request_rate=request_rate,
        batch=1,
        throughput_per_s=request_rate or 1e3 * (concurrency or 1) / latencies.mean(),
        latency=found,
        hard_share=hard,
        open_loop=None if request_rate is None else found,
    )


@pytest.mark.parametrize("overlap", [1.0, 0.6])
def test_a_sweep_shows_how_requests_overlap(overlap: float) -> None:
    """What it was made with is found again, and every cell is estimated as it was measured."""
    sweep = _sweep(overlap=overlap)
    replica = replica_of_sweep(sweep, 0.5)
    assert replica.easy.busy_share == pytest.approx(overlap, rel=0.05)
    assert replica.hard.busy_share == pytest.approx(overlap, rel=0.05)
    refused = Cell(threshold=0.5, concurrency=1, request_rate=None, batch=1, error="no answer")
    checks = check_against(sweep.model_copy(update={"cells": (*sweep.cells, refused)}))
    assert len(checks) == 4 * len(sweep.cells)
    for check in checks:
        assert abs(check.error) < 0.08, check


def test_what_a_sweep_measured_above_the_estimate_counts(tmp_path: Path) -> None:
    plans = []
    for slower in (1.0, 1.3):
        (tmp_path / FILE_NAME).write_text(_sweep(overlap=1.0, slower=slower).model_dump_json())
        plans.append(plan(tmp_path, request_rate=2000, promise="p95:40ms", hard_share=0.3))
    assert [found.correction for found in plans] == [pytest.approx(1.0, abs=0.05), pytest.approx(1.3, abs=0.05)]
    assert plans[1].replicas > plans[0].replicas
    assert plans[0].gpus is None


def test_replicas_whose_thresholds_follow_the_load_absorb_it_with_accuracy_first(
    repository: Path, tmp_path: Path
) -> None:
    """Easy images alone, 8 ms each, need the fewest replicas; the floor needs as many as its mix would."""
    assert plan(repository, request_rate=500, promise="p95:30ms").absorbing is None
    copy = calibrate(shutil.copytree(repository, tmp_path / "models"), "toy", following())
    rate = {"request_rate": 500.0, "promise": "p95:30ms"}
    found = plan(copy, **rate)
    absorbed = found.absorbing
    assert absorbed is not None and absorbed.replicas_at_floor == found.replicas
    assert absorbed.replicas_without_refusals == plan(repository, **rate, hard_share=0).replicas < found.replicas
    lower = plan(copy, **rate, hard_share_floor=0.1).absorbing
    assert lower is not None and lower.replicas_at_floor == plan(repository, **rate, hard_share=0.1).replicas
    rows = {row.replicas: row for row in absorbed.rows}
    shares = [row.hard_share for row in absorbed.rows if row.hard_share is not None]
    assert shares == sorted(shares) and rows[found.replicas].hard_share == pytest.approx(1 - EASY_SHARE)
    refusing = rows[absorbed.replicas_without_refusals - 1]
    assert refusing.hard_share is None and 0 < refusing.refused_share < 0.3
    assert rows[absorbed.replicas_without_refusals].refused_share == 0


def test_an_ap_floor_is_the_lowest_hard_share_that_has_it(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation, load = tmp_path / "ap.json", tmp_path / "load.json"
    curve = [{"hard_share": share, "precision": {"ap": 40 + 20 * share, "ap50": 1}} for share in (0.0, 0.5, 1.0)]
    evaluation.write_text(json.dumps({"images": 3, "curve": curve}))
    load.write_text(load_record().model_dump_json())
    words = ["deploy", "plan", str(repository), "--request-rate", "500", "--promise", "p95:30ms"]
    words += ["--evaluation", str(evaluation), "--load-record", str(load)]
    assert run(dyndet, [*words, "--ap-floor", "42", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["absorbing"]
    assert found["hard_share_floor"] == pytest.approx(0.1) and found["ap_floor"] == 42
    assert found["rows"][-1]["ap"] == pytest.approx(46)  # 30 % hard
    slow, fast = found["checks"]  # 10 requests a second, all hard and none refused; 10 % refused
    assert (slow["measured_hard_share"], slow["hard_share"]) == (1.0, pytest.approx(0.3))
    assert (slow["refused_share"], fast["measured_refused_share"]) == (0.0, pytest.approx(0.1))
    assert (slow["measured_ap"], slow["ap"]) == (pytest.approx(42.25), pytest.approx(46))
    assert run(dyndet, [*words, "--ap-floor", "42"]) == 0
    said = capsys.readouterr().out
    assert "replicas keep an AP of 42 (a hard share of 10%)" in said and "refuse nothing" in said
    for more, reason in (
        (["--ap-floor", "70"], "no hard share reaches an AP of 70; the best is 60.0"),
        (["--ap-floor", "55"], "needs a hard share of 0.75, above the one without load, 0.3"),
        (["--ap-floor", "42", "--hard-share-floor", "0.1"], "give one of them"),
        (["--hard-share-floor", "-1"], "from 0 to 1"),
    ):
        assert run(dyndet, [*words, *more]) == 2
        told = capsys.readouterr().err
        assert reason in told and told.count("\n") == 1
    assert run(dyndet, [*words[:7], "--ap-floor", "42"]) == 2
    assert "needs AP over the hard share" in capsys.readouterr().err
    evaluation.write_text("{}")
    assert run(dyndet, words) == 2
    assert "is not an evaluation of both routes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(
            ({"request_rate": rate}, "request rate must be from 0.001 to 1,000,000 requests a second, not")
            for rate in (0.0, 1e-300, 1e30, float("inf"), float("nan"))
        ),
        ({"promise": "50%"}, "not a latency"),
        ({"promise": "throughput:9/s"}, "not a latency"),
        ({"margin": 1.0}, "margin"),
        ({"hard_share": 1.5}, "hard share"),
        ({"operating_point": "other"}, "'other' is not known"),
    ],
)
def test_what_cannot_be_planned_is_refused(given: dict[str, object], said: str, repository: Path) -> None:
    with pytest.raises(InputError, match=said):
        plan(repository, **{"request_rate": 10.0, "promise": "30ms", **given})  # type: ignore[arg-type]


def test_sources_that_say_too_little_are_refused(repository: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(repository, tmp_path / "models")
    calibrate(copy, "toy", points(concurrency=4))
    with pytest.raises(InputError, match="concurrency 4"):
        plan(copy, request_rate=10, promise="30ms")
    fresh = render(write_toy_bundle(tmp_path / "bundle"), tmp_path / "fresh")
    with pytest.raises(InputError, match="dyndet calibrate"):
        plan(fresh, request_rate=10, promise="30ms")
    with pytest.raises(InputError, match="neither a model repository"):
        plan(tmp_path, request_rate=10, promise="30ms")
    (tmp_path / FILE_NAME).write_text(_sweep(overlap=1.0).model_dump_json())
    with pytest.raises(InputError, match="--hard-share"):
        plan(tmp_path, request_rate=10, promise="30ms")


def test_a_promise_that_idle_replicas_break_is_out_of_reach(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TargetOutOfReachError, match="even idle replicas take 12"):
        plan(repository, request_rate=1, promise="p99:12ms")
    words = ["deploy", "plan", str(repository), "--request-rate", "1", "--promise", "p99:12ms"]
    assert run(dyndet, words) == 3
    assert capsys.readouterr().err.startswith("Error: even idle replicas")


def test_more_replicas_than_a_plan_counts_are_out_of_reach(repository: Path) -> None:
    with pytest.raises(
        TargetOutOfReachError, match=r"1e\+06 requests a second within .* need more than 10,000 replicas"
    ):
        plan(repository, request_rate=1e6, promise="p99:30ms")


def test_the_command_says_what_it_assumes(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--request-rate", "400", "--promise", "p95:40ms"]
    assert run(dyndet, ["deploy", "plan", str(repository), *words]) == 0
    said = capsys.readouterr().out
    assert "GPUs keep p95:40ms" in said and "Poisson" in said and "<- enough" in said
    assert run(dyndet, ["deploy", "plan", str(repository), "--request-rate", "1", "--promise", "p95:40ms"]) == 0
    assert re.search(r"^1 replica, \d GPUs? keeps p95:40ms", capsys.readouterr().out, re.MULTILINE)
    (tmp_path / FILE_NAME).write_text(_sweep(overlap=0.6).model_dump_json())
    assert run(dyndet, ["deploy", "plan", str(tmp_path), *words, "--hard-share", "0.5"]) == 0
    assert "request rates 0%, closed loops" in capsys.readouterr().out
    assert run(dyndet, ["deploy", "plan", str(tmp_path), *words, "--hard-share", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["replicas"] >= 1 and found["checks"]
