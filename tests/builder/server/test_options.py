"""What can be chosen when a server is started, and how bad values are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.cli import dyndet, run
from dyndet_builder.server.options import ServerOptions


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"grpc_port": 0}, "grpc_port must be a port from 1 to 65535, got 0"),
        ({"metrics_port": 65536}, "metrics_port must be a port from 1 to 65535, got 65536"),
        ({"http_port": 9000, "metrics_port": 9000}, "three different ports, got 9000, any, 9000"),
        ({"log_verbose": -1}, "log_verbose must be at least 0, got -1"),
        ({"model_control": "all"}, "model_control must be none, poll, explicit; got 'all'"),
        ({"ready_timeout_s": float("nan")}, "ready_timeout_s must be a number of seconds from 0 to 1000000, got nan"),
        ({"stop_timeout_s": -1.0}, "stop_timeout_s must be a number of seconds from 0 to 1000000, got -1"),
    ],
)
def test_bad_values_are_named(bad: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServerOptions(**bad)  # type: ignore[arg-type]


def test_the_environment_sets_how_long_a_stop_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNDET_STOP_TIMEOUT_S", "7.5")
    assert ServerOptions().stop_timeout_s == 7.5
    assert ServerOptions(stop_timeout_s=3).stop_timeout_s == 3
    monkeypatch.delenv("DYNDET_STOP_TIMEOUT_S")
    assert ServerOptions().stop_timeout_s == 20


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "1e12", ""])
def test_a_bad_stop_timeout_in_the_environment_is_one_sentence(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYNDET_STOP_TIMEOUT_S", text)
    assert run(dyndet, ["serve", str(tmp_path)]) == 2
    said = f"DYNDET_STOP_TIMEOUT_S must be a number of seconds from 0 to 1000000, got {text!r}"
    assert capsys.readouterr().err.strip().endswith(said)
