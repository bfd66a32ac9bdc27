"""What can be chosen when a server is started, and how bad values are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.cli import dyndet, run
from dyndet_builder.server.admin import read_key
from dyndet_builder.server.options import ServerOptions


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"grpc_port": 0}, "grpc_port must be a port from 1 to 65535, got 0"),
        ({"metrics_port": 65536}, "metrics_port must be a port from 1 to 65535, got 65536"),
        ({"http_port": 9000, "metrics_port": 9000}, "three different ports, got 9000, any, 9000"),
        ({"log_verbose": -1}, "log_verbose must be from 0 to 2147483647, got -1"),
        ({"model_control": "all"}, "model_control must be none, poll, explicit; got 'all'"),
        ({"start_attempts": 0}, "start_attempts must be at least 1, got 0"),
        ({"host": "0.0.0.0"}, "other machines can reach the host '0.0.0.0'.*consent with --expose"),
        ({"host": "0.0.0.0", "expose": True}, "give admin_key, or consent with open_admin=True"),
        ({"admin_key": "0123456789 abcdef"}, "admin key in admin_key has spaces or line breaks; use 16 to 500 letters"),
        ({"admin_key": "short"}, "admin_key has 5 characters; use 16"),
        ({"host": "nowhere.invalid", "expose": True}, "cannot listen on host 'nowhere.invalid'.*an IPv4 address"),
        ({"host": "2130706433"}, "cannot listen on host '2130706433'"),
        ({"host": "0x7f000001"}, "cannot listen on host '0x7f000001'"),
        ({"host": "127.1"}, "cannot listen on host '127.1'"),
        ({"host": ""}, "the host is empty"),
        ({"ready_timeout_s": float("nan")}, "ready_timeout_s must be a number of seconds from 0 to 1000000, got nan"),
        ({"stop_timeout_s": -1.0}, "stop_timeout_s must be a number of seconds from 0 to 1000000, got -1"),
    ],
)
def test_bad_values_are_named(bad: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServerOptions(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_hosts_that_only_this_machine_reaches_need_no_consent(host: str) -> None:
    assert ServerOptions(host=host).host == host


def test_a_host_of_another_machine_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "models" / "any" / "config.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text('backend: "identity"')
    assert run(dyndet, ["serve", str(tmp_path / "models"), "--host", "192.0.2.1", "--expose"]) == 2
    assert "cannot listen on host '192.0.2.1' (Cannot assign requested address)" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--docker", "--no-restart"], "--no-restart belongs to the embedded server"),
        (["--docker", "--expose"], "--expose belongs to the embedded server"),
        (["--docker", "--admin-key-file", "key"], "--admin-key-file belongs to the embedded server"),
        (["--open-admin", "--admin-key-file", "key"], "exclude each other"),
        (["--allow-known-holes"], "--allow-known-holes belongs to --docker"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dyndet, ["serve", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("fifteen-letters\n", "has 15 characters"),
        ("a" * 501, "has more than 500 characters"),
        ("0123456789 abcdef", "has spaces or line breaks"),
        ("0123456789\nabcdef", "has spaces or line breaks"),
        ("0123456789$abcdef", "has characters that are not accepted"),
    ],
)
def test_a_refused_key_is_described_and_not_shown(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    with pytest.raises(InputError, match=f"^the admin key in {file} {said}; use 16 to 500 letters") as caught:
        read_key(file)
    assert not content.strip() or content.strip() not in str(caught.value)


def test_a_key_file_that_other_users_can_read_gets_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("0123456789abcdef")
    for mode, warned in ((0o644, True), (0o640, True), (0o600, False)):
        file.chmod(mode)
        assert run(dyndet, ["serve", str(tmp_path / "none"), "--admin-key-file", str(file)]) == 2
        assert ("other users can read the key file" in capsys.readouterr().err) == warned
