"""Whatever is wrong with a command line, every command says it in one sentence, with the status that README names."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dynamicdet.errors import DyndetError
from dyndet_builder.cli import dyndet, run

ROOT = Path(__file__).parents[3]
NOBODY = "127.0.0.1:9"
"""an address where no server listens"""
MEASURES_THE_DEMO = {"demo", "bench paper", "doctor"}
"""commands that need no input, so that none can be missing"""
INPUTS = {
    "bench client": ["missing"],
    "bench masks": ["missing"],
    "bench load": ["--images", "missing"],
    "bench sweep": ["missing"],
    "build": ["--images", "missing"],
    "calibrate": ["--url", NOBODY],
    "data cutpaste": ["--sources", "missing"],
    "evaluate": ["missing"],
    "export": ["missing"],
    "try": ["missing"],
}
"""where the input is, for commands that can do without: they have a choice, or would use the demo's"""
VALUES = {"targets": "50%", "promise": "12ms", "request_rate": "5", "url": NOBODY, "hard_per_s": "1"}


def commands() -> dict[str, click.Command]:
    """Every command that is not a group, by the words that start it."""

    def below(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            yield " ".join(words), command
            return
        context = click.Context(command)
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            assert one is not None
            yield from below(one, (*words, name))

    return dict(below(dyndet, ()))


COMMANDS = commands()
every_command = pytest.mark.parametrize("name", COMMANDS)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status and the one sentence; `--debug` changes neither."""
    statuses = set()
    sentences = set()
    for debug in ([], ["--debug"]):
        statuses.add(run(dyndet, [*words, *debug]))
        told = capsys.readouterr()
        assert told.out == ""
        lines = [line for line in told.err.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]  # steps
        assert len(lines) == 1 or (debug and lines[0] == "Traceback (most recent call last):"), lines
        sentences.add(lines[-1])
    (status,), (sentence,) = statuses, sentences
    assert sentence.startswith("Error: ") and "bug in dyndet" not in sentence
    return status, sentence


def needed(name: str, *, without: click.Parameter | None = None) -> list[str]:
    """What a command needs to begin, except a file that exists or a server."""
    words = list(INPUTS.get(name, []))
    for one in COMMANDS[name].params:
        if one.required and one is not without:
            value = VALUES.get(str(one.name), "missing")
            words += [value] if isinstance(one, click.Argument) else [one.opts[0], value]
    return words


@every_command
def test_an_unknown_option_and_a_missing_or_superfluous_argument_are_named(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, words = COMMANDS[name], name.split()
    help_is = f"; see `dyndet {name} --help`"
    status, sentence = refused([*words, "--qqq"], capsys)
    assert status == 2 and sentence == f"Error: no such option '--qqq'{help_is}"
    if any(one.required for one in command.params):
        status, sentence = refused(words, capsys)
        assert status == 2 and sentence.startswith("Error: missing ") and sentence.endswith(help_is)
    if not any(one.nargs == -1 for one in command.params):
        status, sentence = refused([*words, *needed(name), "superfluous"], capsys)
        assert status == 2 and "superfluous" in sentence and sentence.endswith(help_is)


@every_command
def test_a_value_of_another_kind_is_named_with_its_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for one in COMMANDS[name].params:
        free = (click.types.StringParamType, click.Path)
        if isinstance(one, click.Option) and not one.is_flag and not isinstance(one.type, free):
            words = [*name.split(), *needed(name, without=one), one.opts[0], "nonsense"]
            status, sentence = refused(words, capsys)
            assert status == 2, words
            assert "nonsense" in sentence, words


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - MEASURES_THE_DEMO))
def test_a_file_that_does_not_exist_and_a_server_that_does_not_answer_end_a_command_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, sentence = refused([*name.split(), *needed(name)], capsys)
    assert status in (2, 6), sentence
    assert "missing" in sentence or NOBODY in sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["info", "dy-yolov7-pico"], ["info", "dy-yolov7-pico", "--json"], ["info", "--help"]]
)
def test_a_reader_that_has_ended_and_a_full_disk_have_their_statuses(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(io.FileIO(writer, "w")) as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert run(dyndet, words) == 141
    assert capsys.readouterr().err == ""
    with io.TextIOWrapper(io.FileIO("/dev/full", "w")) as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert run(dyndet, words) == 2
    assert capsys.readouterr().err == "Error: a file cannot be read or written: No space left on device\n"


def test_ctrl_c_and_a_bug_have_their_statuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(error: BaseException) -> int:
        def raises(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("dynamicdet.networks.info.info", raises)
        return run(dyndet, ["info", "dy-yolov7"])

    assert (end(KeyboardInterrupt()), capsys.readouterr().err.strip()) == (130, "Stopped.")
    assert end(RuntimeError("what\nnow")) == 70
    assert "RuntimeError: what (this is a bug" in capsys.readouterr().err
    assert end(ConnectionRefusedError(111, "Connection refused")) == 6


def test_readme_names_the_status_of_every_error() -> None:
    def below(kind: type[DyndetError]) -> Iterator[type[DyndetError]]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    named = {int(status) for status in re.findall(r"^\| (\d+) \| ", (ROOT / "README.md").read_text(), re.MULTILINE)}
    assert {one.exit_code for one in below(DyndetError) if one.__module__.startswith(("dyn",))} <= named
