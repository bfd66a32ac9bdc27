"""Keys, tokens and passwords appear nowhere: not in messages, not in tracebacks, not in recorded command lines."""

from __future__ import annotations

import shlex
import sys
import traceback
from pathlib import Path

import pytest

from dynamicdet.redaction import public_words, without_secrets
from dyndet_bench.measuring.machine import circumstances
from dyndet_builder.cli import dyndet, run

SECRET = "hunter2/S3cr3t+of@me"
_PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"
_THERE = "--url 127.0.0.1:9 --models MODELS"


@pytest.mark.parametrize("debug", [False, True], ids=["sentence", "traceback"])
@pytest.mark.parametrize(
    "words",
    [
        *(
            f"detect a.jpg {options}"
            for options in (
                f"--url https://me:{SECRET}@host",
                f"--url me:{SECRET}@host:8001",
                f"--url 'grpc://me:{SECRET}@ho st:1'",
                f"--url http://host?token={SECRET}",
                f"--header 'Bearer {SECRET}'",
                f"--header '{SECRET}: x'",
                f"--header 'x: {SECRET}\u00e9'",
                f"--token {SECRET}\u00e9",
                f"--token={SECRET}\u00e9",
                f"--token {SECRET} --header 'Authorization: x'",
                f"--ca-file '{_PEM}'",
                f"--token {SECRET} --concurrency 0",
                f"--token {SECRET} {SECRET}.jpg",
                f"--token {SECRET} --frames {SECRET}",
            )
        ),
        f"deploy rollback {_THERE} --admin-header {SECRET}",
        f"deploy rollback {_THERE} --admin-header 'dyndet-admin: {SECRET}\u00e9'",
        f"deploy rollback {_THERE} --admin-header 'dyndet-admin: {SECRET}'",
        f"deploy rollback {_THERE} --admin-header '{SECRET}: x'",
        f"deploy rollback {_THERE} --admin-header @KEYFILE",
        f"deploy rollback {_THERE} --metrics-url http://me:{SECRET}@host:8002/metrics",
        f"deploy rollback --url 127.0.0.1:9 --models nothing://me:{SECRET}@bucket/models",
        f"deploy rollback --url 127.0.0.1:9 --models sftp://me:{SECRET}@127.0.0.1:9/models",
        f"build --target-latency 50% {_THERE} --checkpoint KEYFILE --images MODELS --output OUTPUT "
        f"--admin-header 'dyndet-admin: {SECRET}'",
        f"calibrate --target-latency 50% --images MODELS --url 127.0.0.1:9 --metrics-url me:{SECRET}@host",
        f"serve MODELS --trace http://me:{SECRET}@collector:4318/v1/traces",
        f"serve MODELS --docker --trace http://collector:4318/v1/traces?api-key={SECRET}",
        "serve MODELS --admin-key-file KEYFILE",
        f"deploy render MODELS OUTPUT --storage s3://me:{SECRET}@bucket/models",
        f"deploy render MODELS OUTPUT --storage ftp://me:{SECRET}@bucket/models",
        f"deploy render MODELS OUTPUT --trace-endpoint https://me:{SECRET}@collector/v1/traces",
    ],
)
def test_no_error_shows_a_secret(
    words: str, debug: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does the chain of exceptions behind it, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "a.jpg").touch()
    key_file = tmp_path / "key"
    key_file.write_text(f"{SECRET}\u00e9")
    places = {"MODELS": str(tmp_path / "models"), "KEYFILE": str(key_file), "OUTPUT": str(tmp_path / "new")}
    for name, path in places.items():
        words = words.replace(name, path)
    said = ""
    try:
        assert run(dyndet, [*shlex.split(words), *(["--debug"] if debug else [])]) in (2, 4, 5, 6)
    except Exception as error:
        assert debug
        said = without_secrets("".join(traceback.format_exception(error)))  # as the entry point prints it
    said += "".join(capfd.readouterr())
    assert "Error" in said
    for part in (SECRET, "hunter2", "S3cr3t"):
        assert part not in said
    assert {path.name for path in tmp_path.iterdir()} == {"models", "key", "a.jpg"}
    assert not list((tmp_path / "models").iterdir())


def test_a_recorded_command_line_names_what_was_given_but_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        *("--admin-header", f"dyndet-admin: {SECRET}", f"--header=team: {SECRET}", "--header", "@headers"),
        *("--token", SECRET, "--models", f"s3://id:{SECRET}@bucket/models", "--threshold", "0.5"),
    ]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/dyndet-build", *words])
    monkeypatch.setenv("DYNDET_ADMIN_KEY", "of the environment")
    command = circumstances().command
    assert shlex.split(command) == [
        *("dyndet-build", "--admin-header", "dyndet-admin: ***", "--header=team: ***", "--header", "@headers"),
        *("--token", "***", "--models", "s3://***@bucket/models", "--threshold", "0.5"),
    ]
    assert public_words(["--note", "this is of the environment"]) == ["--note", "this is ***"]
