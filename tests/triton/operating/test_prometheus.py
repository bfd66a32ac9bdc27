"""A rendered deployment's flags on the real server; its rules and dashboard on a real Prometheus that scrapes it."""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
import yaml
from tritonclient.utils import InferenceServerException

from dyndet_builder.deployment.alerts import watched
from dyndet_builder.deployment.dashboard import panels
from dyndet_builder.deployment.deploy import DeployOptions, deploy
from dyndet_builder.deployment.series import queue_ms
from dyndet_builder.operating_points import FollowLoad, Tenant
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.ports import free_ports
from dyndet_builder.server.triton import TritonServer
from dyndet_client import Detector, DyndetError
from tests.support.deployments import calibrate, points, program
from tests.support.programs.processes import started
from tests.support.toy_bundle import FAIL_DETECTOR2, image, write_toy_bundle

_KEY = "a-secret"
_LOAD_S = 30.0
"""longest time until Prometheus has seen enough for rates"""


@dataclass(frozen=True)
class Running:
    """A deployment under load."""

    server: TritonServer
    repository: Path
    folder: Path
    options: DeployOptions


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server with the very flags of the rendered pod, answering requests for as long as the tests last."""
    folder = tmp_path_factory.mktemp("deployed")
    repository = render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions())
    tenants = {"street": Tenant(hard_per_s=1, burst=1)}
    patient = FollowLoad(promise_ms=60_000)  # on a machine that is busy with tests
    measured = points()
    point = measured.points[measured.default].model_copy(update={"follow_load": patient})
    calibrate(repository, "toy", measured.model_copy(update={"points": {measured.default: point}, "tenants": tenants}))
    (metrics_port,) = free_ports(1)
    options = DeployOptions(scrape_interval_s=1, metrics_targets=(f"127.0.0.1:{metrics_port}",))
    deploy(repository, folder / "out", options)
    manifest = yaml.safe_load((folder / "out" / "kubernetes" / "deployment.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    arguments = [argument.replace("$(DYNDET_ADMIN_KEY)", _KEY) for argument in container["args"]]
    # The launcher gives these itself; and its warming asks for the list of models, which the flags restrict.
    own = ("--model-repository", "--exit-timeout-secs")
    server_options = ServerOptions(
        metrics_port=metrics_port,
        extra_arguments=tuple(argument for argument in arguments if not argument.startswith(own)),
        warm_up=False,
    )
    with TritonServer(repository, server_options) as server:
        stop = threading.Event()
        thread = threading.Thread(target=_ask, args=(server.grpc_url, stop))
        thread.start()
        try:
            yield Running(server, repository, folder / "out", options)
        finally:
            stop.set()
            thread.join()


def _ask(url: str, stop: threading.Event) -> None:
    """Easy and hard images in turn; now and then one for which detector 2 fails, and a request that is wrong."""
    with Detector(url, model="toy") as detector:
        number = 0
        while not stop.is_set():
            number += 1
            with suppress(DyndetError):
                wrong = {"operating_point": "unknown"} if number % 50 == 25 else {}
                asked = wrong or ({"tenant": "street"} if number % 5 == 0 else {})
                detector.detect(image((37 * number) % 250, FAIL_DETECTOR2 if number % 50 == 49 else 0), **asked)
            time.sleep(0.005)


@pytest.fixture(scope="module")
def prometheus(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus that has scraped the server for a while, with the rendered configuration."""
    binary = program("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed; it is in Debian's package prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    (port,) = free_ports(1)
    command = [binary, f"--config.file={running.folder / 'prometheus' / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("w") as log, started(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 20
            while not _ready(f"http://127.0.0.1:{port}/-/ready"):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            deadline = time.monotonic() + _LOAD_S
            while time.monotonic() < deadline and _without_data(running, f"http://127.0.0.1:{port}"):
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)


def _open(request: str | urllib.request.Request) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def _ready(url: str) -> bool:
    try:
        _open(url)
    except OSError:
        return False
    return True


def _values(prometheus: str, expr: str) -> list[float]:
    """What Prometheus answers to PromQL; the dashboard's interval is Grafana's to fill in."""
    asked = urllib.parse.urlencode({"query": expr.replace("$__rate_interval", "10s").replace("$instance", ".*")})
    answer = json.loads(_open(f"{prometheus}/api/v1/query?{asked}"))
    assert answer["status"] == "success"
    return [float(sample["value"][1]) for sample in answer["data"]["result"]]


def _expressions(running: Running) -> dict[str, str]:
    """Everything that is asked of Prometheus, but what only a GPU gives; of alerts the value that they compare."""
    deployed = read_rendered(running.repository)
    watch = watched(deployed, running.options, job="toy")
    found = {record.name: record.expr for record in watch.records}
    found |= {alert.name: alert.value for alert in watch.alerts if not alert.needs_gpu}
    for placed in panels(deployed, running.options, job="toy"):
        if not placed.panel.needs_gpu:
            found |= {f"{placed.panel.title}: {query.legend}": query.expr for query in placed.panel.queries}
    return found


def _without_data(running: Running, prometheus: str) -> dict[str, list[float]]:
    """Expressions that have no value, or none that is a number."""
    found = {name: _values(prometheus, expr) for name, expr in _expressions(running).items()}
    return {name: values for name, values in found.items() if not values or not all(map(math.isfinite, values))}


def test_every_expression_has_data_under_load(running: Running, prometheus: str) -> None:
    assert _without_data(running, prometheus) == {}
    causes = ("DyndetStageErrors", "DyndetFallback", "DyndetBadRequests")
    deadline = time.monotonic() + 60
    while True:  # one request in fifty is a cause, and a rate needs some between two scrapes
        found = {name: _values(prometheus, expr) for name, expr in _expressions(running).items()}
        if all(any(found[name]) for name in causes) or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert found["dyndet:requests:rate5m"][0] > 0.1  # a rate over 5 minutes, of which it has seen a few seconds
    assert 0 < found["dyndet:mean_ms:rate5m"][0] < 500
    # The causes of three alerts: detector 2 that fails, its images that fall back, and requests that are wrong.
    assert found["DyndetStageErrors"] != [0, 0, 0]
    assert found["DyndetFallback"][0] > 0
    assert found["DyndetBadRequests"][0] > 0
    assert found["DyndetRequestsFail"][0] == 0
    assert 0.3 < found["dyndet:hard_share:increase30m"][0] < 0.9  # difficulties are even, the threshold is 0.4
    # The recorded series are what Prometheus has computed by the rendered rules itself.
    for record in watched(read_rendered(running.repository), running.options, job="toy").records:
        reasons = 6 + 4 if record.name.startswith("dyndet:failures") else 1  # the detector's own and Triton's
        assert len(_values(prometheus, f'{record.name}{{job="toy"}}')) == reasons


def test_rules_are_loaded_and_healthy(running: Running, prometheus: str) -> None:
    groups = json.loads(_open(f"{prometheus}/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    written = yaml.safe_load((running.folder / "prometheus" / "rules.yml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in written)


def test_the_autoscalers_metric_says_that_the_server_is_nearly_idle(running: Running, prometheus: str) -> None:
    (rule,) = yaml.safe_load((running.folder / "prometheus" / "adapter-values.yml").read_text())["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'job="toy"').replace("<<.GroupBy>>", "instance")
    (pressure,) = _values(prometheus, query)
    assert 0 < pressure < 0.9  # of a replica; above it, one more is wanted
    waits = queue_ms(read_rendered(running.repository), where='job="toy"', by="instance", window="1m")
    (waits_ms,) = _values(prometheus, waits)
    assert 0 <= waits_ms < 2000  # not in seconds or ns, and not a sum


def test_every_metric_that_is_named_exists(running: Running) -> None:
    scraped = _open(running.server.metrics_url).decode()
    texts = [*_expressions(running).values(), (running.folder / "prometheus" / "adapter-values.yml").read_text()]
    named = {name for text in texts for name in re.findall(r"\b(?:nv|dyndet)_[a-z0-9_]+(?=\{)", text)}
    assert len(named) >= 10
    assert {name for name in named if not re.search(rf"^{name}[ {{]", scraped, re.MULTILINE)} == set()


def test_administrative_endpoints_ask_for_the_key_and_others_do_not(running: Running) -> None:
    http, header = f"http://{running.server.http_url}", {"dyndet-admin": _KEY}
    restricted = (("v2/repository/index", b""), ("v2/systemsharedmemory/status", None), ("v2/logging", None))
    for path, body in restricted:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            _open(urllib.request.Request(f"{http}/{path}", data=body))
        _open(urllib.request.Request(f"{http}/{path}", data=body, headers=header))
    for path in ("v2/health/live", "v2/health/ready", "v2/models/toy/config", "v2/models/toy/stats"):
        _open(f"{http}/{path}")
    with triton.InferenceServerClient(running.server.grpc_url) as client:
        calls: tuple[Any, ...] = (
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_log_settings,
            client.get_trace_settings,
        )
        for call in calls:
            with pytest.raises(InferenceServerException, match="restricted"):
                call()
            call(headers={f"triton-grpc-protocol-{name}": value for name, value in header.items()})
        assert client.is_server_ready() and client.get_model_config("toy") and client.get_inference_statistics("toy")
