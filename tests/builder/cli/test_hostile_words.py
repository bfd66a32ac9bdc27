"""No command lets what others wrote control the terminal: paths, options, files, servers and the environment."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from dyndet_builder.bundle.manifest import STAGES
from dyndet_builder.bundle.runner import StageRunner
from dyndet_builder.cli import _COMMANDS, dyndet, run
from tests.support.hostility.damage import ESCAPE

ROOT = Path(__file__).parents[3]
HOSTILE = f"{ESCAPE}\x9b31m\r\x7f\udc9b[red]C[/][link=file:///x]y"
"""escape sequences of one and of two bytes, bidirectional marks, a lone surrogate, rich's markup"""
SGR = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def hostile_files(tmp_path: Path) -> Path:
    """A folder of a hostile name with files that are as hostile inside."""
    folder = tmp_path / HOSTILE.replace("/", "|")
    (folder / "data" / "images").mkdir(parents=True)
    (folder / "repository" / "toy" / "1").mkdir(parents=True)
    said = json.dumps(HOSTILE)
    texts = {
        "sweep.json": '{"schema_version": 1, "model": ' + said + ", " + said + ": 1}",
        "cells.csv": f"threshold,{HOSTILE}\n1,2\n",
        "bundle.json": '{"schema_version": 1, "name": ' + said + ", " + said + ": {}}",
        "checkpoint.pt": HOSTILE * 10,
        "data/annotations.json": '{"images": [{"id": ' + said + ', "file_name": ' + said + '}], "annotations": 3}',
        "repository/dyndet.json": '{"schema_version": 2, "detectors": {' + said + ": " + said + "}}",
        "repository/toy/config.pbtxt": f'name: "{HOSTILE}',
        "repository/toy/1/operating_points.json": '{"default": ' + said + ', "points": {' + said + ": 1}}",
        "notes.txt": HOSTILE,
        "picture.jpg": HOSTILE,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    Image.new("RGB", (64, 64)).save(folder / "real.png")
    return folder


class _Answers(BaseHTTPRequestHandler):
    """Answers every request of a client with hostile words, first as an error, then as a detector."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def _answer(self) -> None:
        says = HOSTILE.replace("\udc9b", "")
        content: object = {"error": says}
        status = 400
        if self.server.is_a_detector and "/config" in self.path:  # type: ignore[attr-defined]
            tensor = {"name": "image", "data_type": "TYPE_UINT8", "dims": [32, 32, 3]}
            outputs = ("num_detections", "boxes", "scores", "classes", "difficulty", "route")
            parameters = {"dyndet_input_size": "32", "dyndet_class_names": json.dumps([says])}
            status, content = (
                200,
                {
                    "name": says,
                    "max_batch_size": 8,
                    "input": [tensor],
                    "output": [{"name": name} for name in outputs],
                    "parameters": {name: {"string_value": value} for name, value in parameters.items()},
                },
            )
        body = json.dumps(content).encode()
        self.send_response(status, "Bad")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[False, True], ids=["refuses", "is a detector"])
def hostile_server(request: pytest.FixtureRequest) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.is_a_detector = request.param  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def _commands(folder: Path) -> Iterator[list[str]]:
    """One of every command, and of its options with a free text, with hostile words wherever words go."""
    files = {name: str(folder / name) for name in ("checkpoint.pt", "data", "repository", "notes.txt", "picture.jpg")}
    none, images, out = str(folder / "none"), str(folder / "data" / "images"), str(folder / "out")
    yield from ([HOSTILE], [f"--{HOSTILE}"], ["bench", HOSTILE], ["detect"])
    yield from ([name, f"--{HOSTILE}", HOSTILE] for name in _COMMANDS)
    yield from (["info", name] for name in (none, files["checkpoint.pt"], HOSTILE))
    yield ["info", files["checkpoint.pt"], "--debug"]
    yield from (["inspect", source] for source in (none, files["checkpoint.pt"], HOSTILE))
    yield from (["inspect", none, option, HOSTILE] for option in ("--classes", "--input-spec", "--size", "--mean"))
    yield ["inspect", none, "--classes", files["notes.txt"]]
    yield ["export", files["checkpoint.pt"], "--images", images, "-o", out]
    yield ["quantize", str(folder), "--data", files["data"], "-o", out]
    yield ["engines", str(folder), "-o", out]
    yield from (["render", source, out] for source in (str(folder), none))
    yield ["render", str(folder), out, "--name", HOSTILE]
    yield from (["serve", source] for source in (files["repository"], none))
    yield ["serve", files["repository"], "--docker", "--host", HOSTILE]
    yield ["serve", files["repository"], "--docker"]
    yield ["deploy", "render", files["repository"], "-o", out]
    yield from (
        ["deploy", "plan", source, "--request-rate", "5", "--promise", promise]
        for source in (str(folder), files["repository"], none)
        for promise in ("p95:40ms", HOSTILE)
    )
    yield ["deploy", "push", files["repository"], "--url", HOSTILE, "--models", str(folder)]
    yield ["calibrate", "--url", HOSTILE, "--images", images, "--target-latency", "50%"]
    yield ["tune", files["repository"], "--images", images]
    yield ["bench", "compare", str(folder), str(folder)]
    yield ["bench", "compare", str(folder), str(folder), "--threshold", HOSTILE]
    yield from (["bench", "plot", source, "-o", f"{out}.svg"] for source in (str(folder), none))
    yield from (["bench", name, files["repository"], "--images", images] for name in ("sweep", "overhead", "client"))
    yield from (["train", *words, "-o", out] for words in (["detectors", files["data"]], ["router", none, none]))
    yield ["evaluate", files["checkpoint.pt"], "--data", files["data"]]
    yield ["evaluate", none, "--data", none, "--hard-share", HOSTILE]
    yield from (["data", "check", source] for source in (files["data"], none, files["notes.txt"]))
    yield from (["try", source, "--no-open"] for source in (files["repository"], none))
    yield ["try", none, "--model", HOSTILE]
    yield ["try", "--url", HOSTILE]
    yield ["doctor", "--check", HOSTILE]
    yield ["build", "--target-latency", HOSTILE]
    yield ["build", "--target-latency", "50%", "--checkpoint", none, "-o", out]
    yield from (
        ["detect", str(folder / "real.png"), option, HOSTILE]
        for option in ("--url", "--header", "--token", "--ca-file")
    )


def _control_codes(text: str) -> str:
    return "".join(char for char in text if not char.isprintable() and char not in "\n\t")


def test_no_command_prints_control_characters_of_others(
    hostile_files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ESCAPE.replace("/", "|")
    monkeypatch.setenv("XDG_CACHE_HOME", str(hostile_files / "cache"))
    monkeypatch.setenv("HOME", str(hostile_files))
    monkeypatch.setenv("DYNDET_STOP_TIMEOUT_S", words)
    monkeypatch.chdir(hostile_files)
    found = set()
    for command in _commands(hostile_files):
        status = run(dyndet, command)
        told = capfd.readouterr()
        assert status != 70 and _control_codes(told.out + told.err) == "", command
        found.add(command[0])
        assert status != 0 or "--docker" in command, (command, told)
    assert {*_COMMANDS} <= found


def test_colours_on_a_terminal_are_those_of_rich_alone(
    hostile_files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(dyndet, ["bench", "compare", str(hostile_files), str(hostile_files)])
    run(dyndet, ["doctor", "--check", "docker"])
    told = capfd.readouterr()
    bold, end, colours = "\x1b[1m", "\x1b[0m", ("\x1b[32m", "\x1b[33m", "\x1b[31m")
    assert {bold, end} <= {*SGR.findall(told.out)} <= {bold, end, *colours}
    assert _control_codes(SGR.sub("", told.out)) == _control_codes(told.err) == ""


def test_a_server_cannot_write_to_the_terminal_of_its_client(
    hostile_server: str, hostile_files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = str(hostile_files / "real.png")
    for words in (["--json"], ["--operating-point", "fast"], ["--debug"]):
        status = run(dyndet, ["detect", picture, "--url", f"http://{hostile_server}", "--timeout", "5", *words])
        told = capfd.readouterr()
        assert status not in (0, 70) and _control_codes(told.out + told.err) == "", told
    for url in (hostile_server, f"grpc://{hostile_server}"):  # it does not speak gRPC
        run(dyndet, ["detect", picture, "--url", url, "--timeout", "1"])
        run(dyndet, ["evaluate", "--url", url, "--data", str(hostile_files / "data")])
    told = capfd.readouterr()
    assert "Error: " in told.err and _control_codes(told.out + told.err) == ""


def test_onnx_runtime_prints_no_names_of_a_graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    numbers = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("index", "found")]
    data = helper.make_tensor("data", TensorProto.INT64, [1], [7])
    node = helper.make_node("Gather", ["data", "index"], ["found"], name=ESCAPE)
    graph = helper.make_graph([node], ESCAPE, numbers[:1], numbers[1:], [data])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "g.onnx")
    runner = StageRunner(dict.fromkeys(STAGES, tmp_path / "g.onnx"))
    with pytest.raises(Exception, match="Gather"):
        runner.run("backbone1", {"index": np.array([9])})
    assert capfd.readouterr() == ("", "")


def test_only_one_module_can_reach_the_terminal_past_the_filter() -> None:
    """The linter bans rich's own console, bars and markup elsewhere; this finds what it does not see."""
    banned = re.compile(
        r"from rich(\.console|\.progress|\.live)? import .*\b(Console|Progress|Live|print|get_console)\b|from_markup|"
        r"from_ansi|markup=True|sys\.__std|sys\.std(out|err)\.buffer|os\.write\([12],"
    )
    exceptions = {"terminal.py", "guard.py"}  # the guard is a process of its own, whose output is a pipe
    for part in ("client", "builder", "benchmarks"):
        for path in (ROOT / part).rglob("*.py"):
            assert path.name in exceptions or not banned.search(path.read_text()), path
