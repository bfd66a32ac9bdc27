"""Where a server sends its spans: every way to serve agrees; and the models' own part, without a server."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.cli import dyndet, run
from dyndet_builder.deployment.deploy import DeployOptions, deploy
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.tracing import ENDPOINT_VARIABLE, SERVICE_VARIABLE, Tracing
from dyndet_builder.templates import TEMPLATES
from tests.support.deployments import documents, installed_by, pod_of
from tests.support.programs.span_receiver import receiving_spans
from tests.support.toy_bundle import write_toy_bundle

_URL = "http://collector:4318/v1/traces"


def test_docker_and_deployments_trace_with_the_same_flags_variables_and_packages(tmp_path: Path) -> None:
    repository = render(write_toy_bundle(tmp_path / "bundle"), tmp_path / "models", RenderOptions(topology="fused"))
    tracing = Tracing(url=_URL, rate=10, service="toy")
    wanted = {ENDPOINT_VARIABLE: _URL, SERVICE_VARIABLE: "toy"}
    command = docker_command(repository, ports={"grpc": 8001}, tracing=tracing)
    untraced = docker_command(repository, ports={"grpc": 8001})
    assert all(f"{name}={value}" in command for name, value in wanted.items())
    assert all(flag in command[-1] for flag in tracing.arguments)
    added = installed_by(command[-1]) - installed_by(untraced[-1])
    assert {package.partition("==")[0] for package in added} == {
        "opentelemetry-sdk",
        "opentelemetry-exporter-otlp-proto-http",
    }
    deployed = tmp_path / "deployed"
    deploy(repository, deployed, DeployOptions(trace_endpoint=_URL, trace_rate=10))
    dockerfile = (deployed / "Dockerfile").read_text()
    assert installed_by(dockerfile) == installed_by(command[-1])
    assert dict(re.findall(r'^ENV (OTEL_\w+)="(.*)"$', dockerfile, re.MULTILINE)) == wanted
    assert all(flag in dockerfile for flag in tracing.arguments)
    (kserve,) = documents(deployed, "kserve/inference-service.yaml")
    for pod in (pod_of(deployed), kserve["spec"]["predictor"]):
        (container,) = pod["containers"]
        found = {one["name"]: one.get("value") for one in container["env"]}
        assert {name: found[name] for name in wanted} == wanted
        assert set(tracing.arguments) <= set(container["args"])
    assert "opentelemetry" not in untraced[-1]


def test_a_collector_that_nobody_has_started_is_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        url = f"http://127.0.0.1:{collector.getsockname()[1]}/v1/traces"
        assert Tracing(url=url).problem() is None
    assert Tracing(url=url).problem() == (
        f"no collector can be reached at {url} (Connection refused); spans are lost until there is one"
    )


@pytest.mark.parametrize(
    ("url", "rate", "said"),
    [("localhost:4318", 0, "not the URL of a collector"), ("http://c/$(x)", 0, "URL"), (_URL, -1, "trace rate")]
    + [(_URL, 2**31, "trace rate")]
    + [(url, 0, "URL") for url in ("http://", "http://h:0/v1", "http://h:99999/", "http://[::1:4318/v1", "http://h\n")],
)
def test_impossible_settings_are_refused(url: str, rate: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Tracing(url=url, rate=rate)
    with pytest.raises(InputError, match=said):
        DeployOptions(trace_endpoint=url, trace_rate=rate)


def test_a_rate_is_for_traces_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dyndet, ["serve", str(tmp_path), "--trace-rate", "1"]) == 2
    assert "--trace-rate needs --trace URL" in capsys.readouterr().err


class _Request:
    """A traced request, as far as it is asked for its trace; `sent` is the client's own `traceparent`."""

    def __init__(self, sent: str | None = None) -> None:
        self._parameters = {} if sent is None else {"dyndet_traceparent": sent}

    def trace(self) -> _Request:
        return self

    def get_context(self) -> str:
        return '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'

    def parameters(self) -> str:
        return json.dumps(self._parameters)


def _of_the_models() -> ModuleType:
    """The module that rendering copies beside a model."""
    spec = importlib.util.spec_from_file_location("tracing_of_models", TEMPLATES / "public" / "tracing.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("endpoint", [None, _URL])
def test_without_an_endpoint_or_packages_a_model_serves_without_spans(
    endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an endpoint, one warning says what to install."""
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)
    if endpoint is not None:
        monkeypatch.setenv(ENDPOINT_VARIABLE, endpoint)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # as if it were not installed
    warnings: list[str] = []
    tracing = _of_the_models().Tracing("toy", warnings.append)
    assert tracing.of(_Request()) is None
    tracing.close()
    assert len(warnings) == (endpoint is not None)
    assert all("pip install opentelemetry-sdk" in warning for warning in warnings)


def test_a_collector_that_never_answers_does_not_keep_a_model_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK alone would wait for 10 s or longer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
        warnings: list[Any] = []
        tracing = _of_the_models().Tracing("toy", warnings.append)
        trace = tracing.of(_Request())
        tracing.failed(trace, ValueError("no answer"))
        started = time.monotonic()
        tracing.close(flush_s=0.2)
        assert time.monotonic() - started < 5
        assert trace.images == 1 and not warnings


def test_a_trace_that_triton_began_itself_is_linked_from_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate, Triton traces a request whose header it has lost as if nobody traced it. Rubbish changes nothing."""
    with receiving_spans() as spans:
        monkeypatch.setenv(ENDPOINT_VARIABLE, spans.url)
        tracing = _of_the_models().Tracing("toy", print)
        sent = f"00-{1:032x}-{2:016x}-01"
        for request in (_Request(sent), _Request("rubbish")):
            tracing.failed(tracing.of(request), ValueError("no answer"))
        tracing.close()
        (clients,) = spans.wait(f"{1:032x}", bool)
        assert (clients.parent_id, clients.links) == (f"{2:016x}", ("b7ad6b7169203331",))
        (tritons,) = spans.wait("0af7651916cd43dd8448eb211c80319c", bool)
        assert (tritons.parent_id, tritons.links) == ("b7ad6b7169203331", ())
