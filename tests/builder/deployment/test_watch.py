"""What Prometheus and Grafana are given, by promtool and by Grafana's own model; that alerts fire and do not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dyndet_builder.deployment.deploy import DeployOptions, deploy
from dyndet_builder.operating_points import OperatingPoints
from dyndet_builder.repository.render import RenderOptions, render
from tests.support.deployments import calibrate, following, points, program
from tests.support.toy_bundle import write_toy_bundle

FOLLOWING = following()
MEASURED = {
    "calibrated": points(),
    "mean": points(statistic="mean", goal=9.2),
    "following": FOLLOWING,
    "uncalibrated": None,
}
MINUTES = 60
_JOB = 'job="toy",model="toy"'


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def _deployed(bundle: Path, folder: Path, measured: OperatingPoints | None, *, gpu: bool = False) -> Path:
    options = RenderOptions(backend="onnxruntime", gpus=(0,)) if gpu else RenderOptions()
    repository = render(bundle, folder / "models", options)
    if measured is not None:
        calibrate(repository, "toy", measured)
    deploy(repository, folder / "out", DeployOptions(scrape_interval_s=60))
    return folder / "out"


def _alerts(folder: Path) -> dict[str, Any]:
    groups = yaml.safe_load((folder / "prometheus" / "rules.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def _promtool() -> str:
    found = program("promtool")
    if found is None:
        pytest.skip("promtool is not installed; it is in Debian's package prometheus")
    return found


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("measured", MEASURED)
def test_promtool_takes_rules_and_configurations(measured: str, gpu: bool, bundle: Path, tmp_path: Path) -> None:
    folder = _deployed(bundle, tmp_path, MEASURED[measured], gpu=gpu) / "prometheus"
    # Debian builds Prometheus without its discovery of pods; the relabelling is checked with addresses in its place.
    cluster = yaml.safe_load((folder / "scrape-kubernetes.yml").read_text())
    (job,) = cluster["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    job["static_configs"] = [{"targets": ["127.0.0.1:8002"]}]
    (folder / "scrape-kubernetes.yml").write_text(yaml.safe_dump(cluster))
    for check in (("config", "prometheus.yml"), ("config", "scrape-kubernetes.yml"), ("rules", "rules.yml")):
        answer = subprocess.run(
            [_promtool(), "check", check[0], folder / check[1]], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr


def test_limits_come_from_the_calibration(bundle: Path, tmp_path: Path) -> None:
    alerts = _alerts(_deployed(bundle, tmp_path / "one", points()))
    assert 'quantile="0.99"}) / 1000' in alerts["DyndetPromiseBroken"]["expr"]
    assert alerts["DyndetPromiseBroken"]["expr"].endswith(" > 22")
    assert "> 24 and dyndet:queue_ms" in alerts["DyndetTailSlow"]["expr"]
    assert "- 0.3)" in alerts["DyndetHardShareDrift"]["expr"]
    assert alerts["DyndetQueueing"]["expr"].endswith("> 18.4")
    assert "DyndetGpuMemory" not in alerts
    alerts = _alerts(_deployed(bundle, tmp_path / "two", points(statistic="p99.9", goal=30), gpu=True))
    assert 'quantile="0.999"' in alerts["DyndetPromiseBroken"]["expr"]
    assert "nv_gpu_memory_used_bytes" in alerts["DyndetGpuMemory"]["expr"]
    arguments = (tmp_path / "two" / "out" / "kubernetes" / "deployment.yaml").read_text()
    assert "0.999:" in arguments  # Triton is asked for the percentile that is watched


def test_what_was_not_calibrated_is_not_watched_and_said(bundle: Path, tmp_path: Path) -> None:
    repository = render(bundle, tmp_path / "models")
    result = deploy(repository, tmp_path / "out")
    assert any("no alert watches a promise" in note for note in result.notes)
    alerts = _alerts(tmp_path / "out")
    assert not {"DyndetPromiseBroken", "DyndetTailSlow", "DyndetHardShareDrift"} & set(alerts)
    assert {"DyndetNoScrape", "DyndetFallback", "DyndetStageErrors", "DyndetQueueing"} <= set(alerts)
    deploy(repository, tmp_path / "out", DeployOptions(promise="12ms"))
    assert _alerts(tmp_path / "out")["DyndetPromiseBroken"]["expr"].endswith("> 13.2")
    calibrate(repository, "toy", points(statistic="throughput", goal=80, unit="/s"))
    result = deploy(repository, tmp_path / "out")
    assert any("promises a throughput" in note for note in result.notes)


def test_a_point_that_follows_the_load_is_watched_by_what_it_promises_under_load(bundle: Path, tmp_path: Path) -> None:
    folder = _deployed(bundle, tmp_path / "one", FOLLOWING)
    alerts = _alerts(folder)
    assert "histogram_quantile(0.97," in alerts["DyndetPromiseBroken"]["expr"]
    assert alerts["DyndetPromiseBroken"]["expr"].endswith(" > 33")
    assert alerts["DyndetQueueing"]["expr"].endswith("> 18.4")  # above half of the promise of 30 ms
    arguments = (folder / "kubernetes" / "deployment.yaml").read_text()
    assert "0.97:" in arguments
    # A fifth of the 30 % hard images less: the 76 % quantile of difficulties that are spread from 0 to 1.
    assert alerts["DyndetThresholdRaised"]["expr"].endswith("> 0.761")
    switched_off = FOLLOWING.points["p99:20ms"].model_copy(update={"follow_load": None})
    off = FOLLOWING.model_copy(update={"points": {"p99:20ms": switched_off}})
    assert "DyndetThresholdRaised" not in _alerts(_deployed(bundle, tmp_path / "two", off))


def _series(
    *,
    p99_ms: float,
    hard: int,
    waiting: int,
    answered: int,
    fallbacks: int,
    errors: int,
    failed: dict[str, int],
    up: int,
    gpu_used: float,
    degraded: int,
    late: int,
    queued: int,
    threshold: float,
) -> Any:
    """An hour of a server that answers 600 requests a minute; counters by the minute."""
    spent_us, latency = answered * p99_ms * 1e3, answered if p99_ms < 25 else 0
    own = {reason: count for reason, count in failed.items() if reason.islower()}
    values = {
        f"nv_inference_request_success{{{_JOB}}}": answered,
        f"nv_inference_request_duration_us{{{_JOB}}}": spent_us,
        **{
            f'nv_inference_request_failure{{{_JOB},reason="{reason}"}}': failed.get(reason, 0)
            for reason in ("BACKEND", "OTHER", "REJECTED", "CANCELED")
        },
        **{f'dyndet_requests_failed_total{{{_JOB},reason="{reason}"}}': count for reason, count in own.items()},
        f'dyndet_routed_total{{{_JOB},route="easy"}}': answered - hard - fallbacks - degraded,
        f'dyndet_routed_total{{{_JOB},route="hard"}}': hard,
        f'dyndet_routed_total{{{_JOB},route="fallback"}}': fallbacks,
        f'dyndet_routed_total{{{_JOB},route="degraded"}}': degraded,
        f"dyndet_arrivals_total{{{_JOB}}}": answered,
        f"dyndet_deadline_missed_total{{{_JOB}}}": late,
        f'dyndet_stage_errors_total{{{_JOB},stage="head1"}}': errors,
        f'dyndet_latency_ms_bucket{{{_JOB},le="10"}}': answered // 2,
        f'dyndet_latency_ms_bucket{{{_JOB},le="20"}}': answered // 2 + latency // 2,
        f'dyndet_latency_ms_bucket{{{_JOB},le="50"}}': answered,
        f'dyndet_latency_ms_bucket{{{_JOB},le="+Inf"}}': answered,
    }
    counters = [{"series": name, "values": f"0+{value:g}x{MINUTES}"} for name, value in values.items()]
    gauges = {
        f'nv_inference_request_summary_us{{{_JOB},quantile="0.97"}}': p99_ms * 1e3,
        f"nv_inference_pending_request_count{{{_JOB}}}": waiting,
        f"dyndet_queue{{{_JOB}}}": queued,
        f"dyndet_threshold{{{_JOB}}}": threshold,
        'up{job="toy",instance="a"}': up,
        'nv_gpu_memory_used_bytes{job="toy",instance="a"}': gpu_used,
        'nv_gpu_memory_total_bytes{job="toy",instance="a"}': 1,
    }
    return counters + [{"series": name, "values": f"{value:g}x{MINUTES}"} for name, value in gauges.items()]


_GOOD: dict[str, Any] = {
    "p99_ms": 15.0,
    "hard": 180,
    "waiting": 0,
    "answered": 600,
    "fallbacks": 0,
    "errors": 0,
    "failed": {},
    "up": 1,
    "gpu_used": 0.5,
    "degraded": 0,
    "late": 6,
    "queued": 0,
    "threshold": 0.4,
}
_BAD: dict[str, tuple[dict[str, Any], ...]] = {
    # By Triton's own summary, and by the detector's histogram, which has the time in its queue.
    "DyndetPromiseBroken": ({"p99_ms": 34.0}, {"p99_ms": 26.0}),
    "DyndetTailSlow": ({"p99_ms": 40.0},),
    "DyndetHardShareDrift": ({"hard": 400},),
    "DyndetThresholdRaised": ({"threshold": 0.9, "hard": 20},),
    "DyndetDegraded": ({"degraded": 40},),
    "DyndetOverloaded": ({"failed": {"overloaded": 30}},),
    "DyndetDeadlinesMissed": ({"late": 60},),
    "DyndetQueueNearlyFull": ({"queued": 900 * 2},),  # two instances
    # Also if nothing is answered any more: no request leaves the queue, so Triton's queueing time stands still.
    "DyndetQueueing": ({"waiting": 2}, {"waiting": 5, "answered": 0, "hard": 0}, {"queued": 2}),
    "DyndetFallback": ({"fallbacks": 30},),
    "DyndetStageErrors": ({"errors": 2},),
    "DyndetRequestsFail": tuple(
        {"failed": {reason: 30}} for reason in ("stage_failed", "internal", "BACKEND", "OTHER")
    ),
    "DyndetRequestsRefused": ({"failed": {"refused": 30}}, {"failed": {"REJECTED": 30}}),
    "DyndetClientsGiveUp": ({"failed": {"cancelled": 60}}, {"failed": {"CANCELED": 60}}),
    "DyndetBadRequests": ({"failed": {"bad_request": 60}},),
    "DyndetNoScrape": ({"up": 0},),
    "DyndetGpuMemory": ({"gpu_used": 0.97},),
}
_FAILURES = {
    "DyndetRequestsFail",
    "DyndetRequestsRefused",
    "DyndetOverloaded",
    "DyndetClientsGiveUp",
    "DyndetBadRequests",
}
_QUIET = {
    # A raised threshold makes fewer images hard, and p99 may be long while requests wait: neither is a fault.
    "DyndetThresholdRaised": {"DyndetHardShareDrift"},
    "DyndetDegraded": {"DyndetFallback"},
}


def test_every_alert_fires_for_its_cause_and_none_without(bundle: Path, tmp_path: Path) -> None:
    """By promtool's own unit tests of rules, on series as Triton and the detectors give them."""
    folder = _deployed(bundle, tmp_path, FOLLOWING, gpu=True) / "prometheus"
    assert set(_alerts(tmp_path / "out")) == set(_BAD)
    tests = [_test("all is well", _GOOD, dict.fromkeys(_BAD, False))]
    for name, causes in _BAD.items():
        others = dict.fromkeys(_FAILURES - {name} | _QUIET.get(name, set()), False)  # a reason has one alert
        tests += [_test(f"{name} {cause}", {**_GOOD, **cause}, {**others, name: True}) for cause in causes]
    script = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(script))
    answer = subprocess.run(
        [_promtool(), "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_autoscaler_wants_the_replicas_that_keep_the_hard_share_at_its_floor(bundle: Path, tmp_path: Path) -> None:
    """A hard image takes 1.5 times as long as an easy one, so a hard share of 30 % needs 1.15 of an easy one."""
    folder = _deployed(bundle, tmp_path, FOLLOWING)
    (rule,) = yaml.safe_load((folder / "prometheus" / "adapter-values.yml").read_text())["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'job="toy"').replace("<<.GroupBy>>", "pod")
    cases = {
        "idle": (1.0, 600, 0, 1.15 * 0.008 / 0.7 * 10),  # 10 images a second, as calibrated, at most 70 % busy
        "busier than calibrated": (1.0, 60_000, 0, 1.15 / 1.5),
        "at the floor": (0.3, 600, 0, 1.0),
        "below it": (0.1, 600, 0, 1.15 / 1.05),
        "half of the requests refused": (0.0, 600, 600, 2.3),
        "nothing comes": (1.0, 0, 0, 0.0),
    }
    tests = [
        {
            "name": name,
            "interval": "15s",
            "input_series": [
                {"series": f'dyndet_gear{{{_JOB},pod="a"}}', "values": f"{gear}x20"},
                *(
                    {"series": f'{counter}{{{_JOB},pod="a"{more}}}', "values": f"0+{count / 4:g}x20"}
                    for counter, more, count in (
                        ("dyndet_arrivals_total", "", answered + refused),
                        ("dyndet_routed_total", ',route="easy"', answered),
                        ("dyndet_requests_failed_total", ',reason="overloaded"', refused),
                    )
                ),
            ],
            "promql_expr_test": [
                {
                    "expr": f"round({query}, 0.001)",
                    "eval_time": "5m",
                    "exp_samples": [{"labels": '{pod="a"}', "value": round(wanted, 3)}],
                }
            ],
        }
        for name, (gear, answered, refused, wanted) in cases.items()
    ]
    script = {"rule_files": [], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(script))
    answer = subprocess.run(
        [_promtool(), "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    given = json.loads((folder / "grafana" / "dashboard.json").read_text())
    assert any("dyndet_gear" in each["expr"] for panel in given["panels"] for each in panel["targets"])


def _test(name: str, given: dict[str, Any], fires: dict[str, bool]) -> Any:
    """Alerts are asked for by the series that Prometheus keeps of them, which needs none of their words."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": _series(**given),
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                "eval_time": f"{MINUTES}m",
                "exp_samples": [{"labels": "{}", "value": int(is_firing)}],
            }
            for alert, is_firing in fires.items()
        ],
    }


@pytest.mark.parametrize("gpu", [False, True])
def test_grafanas_model_keeps_everything_of_the_dashboard(gpu: bool, bundle: Path, tmp_path: Path) -> None:
    """Grafana's own classes read it and write it again; a field they do not know would be gone."""
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk needs Python 3.11")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    folder = _deployed(bundle, tmp_path, points(), gpu=gpu)
    given = json.loads((folder / "grafana" / "dashboard.json").read_text())
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    assert list(_lost(given, kept)) == []
    places = [panel["gridPos"] for panel in given["panels"]]
    cells = [(x, y) for place in places for x in _span(place, "x", "w") for y in _span(place, "y", "h")]
    assert len(cells) == len(set(cells))  # no panel covers another
    assert max(x for x, _ in cells) < 24
    assert any("nv_gpu" in json.dumps(panel) for panel in given["panels"]) == gpu


def test_the_dashboard_shows_the_promise_the_wanted_replicas_and_the_alerts(bundle: Path, tmp_path: Path) -> None:
    folder = _deployed(bundle, tmp_path, points())
    given = json.loads((folder / "grafana" / "dashboard.json").read_text())
    queries = {
        panel["title"]: {each["legendFormat"]: each["expr"] for each in panel["targets"]} for panel in given["panels"]
    }
    promised = {title for title, shown in queries.items() if shown.get("promise p99:20ms") == "vector(20)"}
    assert promised == {
        "Mean latency, with the queue",
        "Latency inside the detector",
        "Latency by server, p95",
    }
    assert queries["Replicas"]["wanted by the autoscaler"].startswith("clamp(ceil(sum(up")
    assert [each["name"] for each in given["templating"]["list"]] == ["datasource", "instance"]
    (annotation,) = given["annotations"]["list"]
    assert annotation["expr"].startswith('ALERTS{job="toy"')
    assert {rule["labels"]["job"] for rule in _alerts(folder).values()} == {"toy"}


def _span(place: dict[str, int], start: str, size: str) -> range:
    return range(place[start], place[start] + place[size])


def _lost(given: Any, kept: Any, path: str = "") -> Any:
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from _lost(value, kept[key], f"{path}.{key}") if key in kept else (f"{path}.{key}",)
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{path}[{number}]")
    elif given != kept:
        yield path
