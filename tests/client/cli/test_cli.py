"""`dyndet detect` without a server, and what importing the client costs."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dynamicdet.errors import MissingExtraError
from dynamicdet.letterbox import Fit
from dyndet_builder.cli import dyndet, run
from dyndet_client import DeadlineExceededError, Detector, InputError, ServerUnreachableError
from dyndet_client.cli.sources import Source, expected_count, find_sources, read_pictures
from dyndet_client.codec import Options, ServedModel, encode


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), (90, 120, 40)).save(path)
    return path


@pytest.fixture
def silent_port():
    """A port that is bound but where nobody answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_a_server_that_is_not_there_is_named_in_one_sentence(
    silent_port, picture, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(dyndet, ["detect", str(picture), "--url", f"127.0.0.1:{silent_port}"]) == 6
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and f"127.0.0.1:{silent_port}" in captured.err
    assert not captured.out and not (tmp_path / "detections").exists()
    with pytest.raises(ServerUnreachableError):
        Detector(f"127.0.0.1:{silent_port}").detect(picture)


def test_a_server_that_accepts_and_says_nothing_does_not_hang(picture) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        said = r"no Triton server answers at \S+ within 0.5 s; allow more time|no answer from \S+ within 0.5 s"
        with pytest.raises((ServerUnreachableError, DeadlineExceededError), match=said):
            Detector(f"127.0.0.1:{sock.getsockname()[1]}", timeout=0.5).detect(picture)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--threshold", "nan"],
        ["--threshold", "inf"],
        ["--threshold", "2"],
        ["--threshold", "abc"],
        ["--threshold", "0.5", "--operating-point", "fast"],
        ["--min-score", "-1"],
        ["--timeout", "0"],
        ["--url", "ftp://127.0.0.1:8000"],
        ["--url", "grpc://127.0.0.1:8001", "--ca-file", "absent.pem"],
        ["--header", "no colon"],
        ["--header", ":path: /"],
        ["--header", "trace-bin: 1"],
        ["--header", "Content-Length: 5"],
        ["--header", "a: b\nc: d"],
        ["--deadline", "70"],
        ["--deadline", "0ms"],
        ["--deadline", "7h"],
        ["--priority", "10"],
        ["--tenant", "a b"],
        ["--concurrency", "0"],
        ["--every", "0"],
        ["--model", ""],
        ["absent.jpg"],
    ],
)
def test_bad_options_are_refused_before_the_server_is_asked(arguments, picture, capsys) -> None:
    assert run(dyndet, ["detect", str(picture), *arguments]) == 2
    assert "Error: " in capsys.readouterr().err


@pytest.mark.parametrize("deadline", ["0ms", "1e30s", "100000000000s"])
def test_a_deadline_out_of_range_is_not_called_one_without_a_unit(deadline, picture, capsys) -> None:
    assert run(dyndet, ["detect", str(picture), "--deadline", deadline]) == 2
    assert f"--deadline must be above 0 and at most 1000000s, not '{deadline}'" in capsys.readouterr().err


def test_a_video_beside_pictures_does_not_stop_a_folder_where_videos_cannot_be_read(picture, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    folder, clip = tmp_path / "folder", tmp_path / "folder" / "clip.mp4"
    folder.mkdir()
    clip.touch()
    for paths in ([folder], [clip, picture]):  # nothing else in it, or asked for by name
        with pytest.raises(MissingExtraError, match="needs PyAV"):
            find_sources(paths, recursive=False)
    shutil.copy(picture, folder)
    video, still = sorted(find_sources([folder], recursive=False), key=lambda source: not source.is_video)
    assert expected_count([video, still], 1) == 2
    with pytest.raises(MissingExtraError, match=r"clip\.mp4 needs PyAV"):
        list(read_pictures(video, every=1))
    assert len(list(read_pictures(still, every=1))) == 1


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5"])
def test_timeouts_are_positive_numbers(timeout) -> None:
    with pytest.raises(InputError, match="timeout"):
        Detector("127.0.0.1", timeout=timeout)


def test_a_closed_detector_says_so(picture) -> None:
    detector = Detector("127.0.0.1:1")
    detector.close()
    with pytest.raises(InputError, match="closed"):
        detector.detect(picture)


def test_importing_the_client_imports_no_framework() -> None:
    code = "import sys, json, dyndet_client, dyndet_client.cli.detect; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    heavy = {"torch", "onnx", "onnxruntime", "dyndet_builder", "pydantic", "safetensors"}
    optional = {"aiohttp", "gevent", "tritonclient.http", "tritonclient.grpc.aio", "av", "supervision"}
    assert not (heavy | optional) & set(modules)


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("aiohttp", "dyndet_client.Detector('http://localhost')", "[http]"),
        ("av", "from dyndet_client.cli.video import VideoReader; VideoReader('clip.mp4')", "[video]"),
        ("supervision", "found.to_supervision()", "[supervision]"),
    ],
)
def test_the_absence_of_an_optional_package_says_what_to_install(missing, code, extra) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; import numpy as np, dyndet_client\n"
        "found = dyndet_client.Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32),"
        "classes=np.zeros(0, np.int32), names=(), difficulty=0.5, route='easy', image_size=(4, 3))\n"
        f"try:\n    {code}\nexcept dyndet_client.MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert " install " in done.stdout and f"{extra}'` installs it" in done.stdout and done.stdout.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has a file that opens and cannot be read")
def test_a_file_that_opens_and_cannot_be_read_is_named(capsys) -> None:
    source = Source(path=Path("/proc/self/mem"), is_video=False)
    with pytest.raises(InputError, match="/proc/self/mem cannot be read: Input/output error"):
        list(read_pictures(source, every=1))
    with pytest.raises(InputError, match="/proc/self/mem cannot be read"):
        encode(ServedModel(name="a", fit=Fit.square(32), class_names=()), source.path, Options())


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path, capsys) -> None:
    path = tmp_path / "red\x1b[31m.jpg"
    assert run(dyndet, ["detect", str(path)]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_folder_whose_pictures_are_in_images_says_so(tmp_path, capsys) -> None:
    (tmp_path / "images").mkdir()
    assert run(dyndet, ["detect", str(tmp_path)]) == 2
    assert f"give {tmp_path / 'images'}, or --recursive" in capsys.readouterr().err
