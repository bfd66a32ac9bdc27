"""The wheel in fresh environments, one extra at a time, as a user installs it: `make test-installs`, minutes each.

A command that lacks packages prints the command that installs them; a shell runs what it printed, and the first command
then does what README promises of the extra. `PYTHONS="3.10 3.12"` names other Pythons than that of the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from tests.support.small_data import write_small_data
from tests.support.toy_bundle import image, write_toy_bundle

pytestmark = [pytest.mark.installs, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
_NOT_USABLE = 9
PYTHONS = os.environ.get("PYTHONS", f"{sys.version_info.major}.{sys.version_info.minor}").split()


@dataclass(frozen=True)
class Installed:
    """A fresh environment, and the folder in which its commands are typed."""

    python: Path
    folder: Path

    def run(self, *words: object, status: int = 0) -> str:
        """Type a command of the environment, and return what it printed on standard output, or of an error."""
        command = [str(self.python.parent / str(words[0])), *map(str, words[1:])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DYNDET"))}
        environment["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")  # what was tested, whatever is newest today
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        # Detectors that hardly learned end with status 9, which says that they are not usable.
        assert done.returncode in (status, status or _NOT_USABLE), (command, done.stdout[-3000:], done.stderr[-3000:])
        return done.stderr if status else done.stdout

    def install_what_is_missing(self, *words: object, extras: str) -> None:
        """Type a command that lacks packages, and then what it says."""
        said = self.run(*words, status=4)
        hint = re.search(r"`(\S+ install [^`]+)` installs it", said)
        assert hint is not None and f"[{extras}]" in hint[1], said
        self.run("bash", "-c", hint[1])


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(ROOT / "builder" / "dist.py"), "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(params=PYTHONS)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Installed:
    """The wheel alone, without extras, in a Python that has nothing else."""
    program = shutil.which(f"python{request.param}")
    if program is None or subprocess.run([program, "-c", ""], check=False).returncode:
        pytest.skip(f"python{request.param} is not installed")
    subprocess.run([program, "-m", "venv", str(tmp_path / "venv")], check=True)
    (tmp_path / "work").mkdir()
    fresh = Installed(tmp_path / "venv" / "bin" / "python", tmp_path / "work")
    (fresh.python.parent / "bash").symlink_to(shutil.which("bash") or "/bin/bash")  # runs what a hint says
    fresh.run("pip", "install", "--quiet", str(wheel))
    return fresh


@pytest.fixture(scope="module")
def toy_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions())


@pytest.fixture(scope="module")
def toy_server(toy_models: Path) -> Iterator[TritonServer]:
    with TritonServer(toy_models, ServerOptions(stop_timeout_s=0)) as server:
        yield server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(image(20 * number, blue=250, seed=number)).save(folder / f"{number:02}.png")
    return folder


def test_the_client_alone_detects_and_says_what_is_here(
    installed: Installed, toy_server: TritonServer, photos: Path
) -> None:
    assert installed.run("python", "-m", "dyndet", "--version").startswith("dyndet, version ")
    assert installed.run("dyndet-build", "--version").startswith("dyndet-build, version ")
    assert "lacks" in installed.run("dyndet", "doctor")
    found = installed.run("dyndet", "detect", photos, "--url", toy_server.grpc_url, "--model", "toy", "--json")
    assert {json.loads(line)["route"] for line in found.splitlines()} == {"easy", "hard"}
    assert "only in a clone" in installed.run("dyndet", "demo", status=2)
    code = "from dyndet import Detector, __version__; import sys; print('torch' in sys.modules, __version__)"
    assert installed.run("python", "-c", code).startswith("False ")


def test_http_video_supervision_and_trace_add_what_they_promise(
    installed: Installed, toy_server: TritonServer, photos: Path
) -> None:
    detect = ("dyndet", "detect", "--model", "toy", "--json")
    over_http = (*detect, photos, "--url", f"http://{toy_server.http_url}")
    installed.install_what_is_missing(*over_http, extras="http")
    assert len(installed.run(*over_http).splitlines()) == 12
    clip = installed.folder / "clip.mp4"
    _write_clip(clip)
    in_a_video = (*detect, clip, "--url", toy_server.grpc_url)
    installed.install_what_is_missing(*in_a_video, extras="video")
    assert len(installed.run(*in_a_video).splitlines()) == 5
    asked = f"""
from dyndet import Detector
with Detector({toy_server.grpc_url!r}, model="toy") as detector:
    print(len(detector.detect({str(photos / "01.png")!r}).to_supervision()))
"""
    (installed.folder / "asked.py").write_text(asked)
    told = installed.run("python", "asked.py", status=1)
    installed.run("bash", "-c", re.findall(r"`(\S+ install [^`]+)`", told)[-1])
    assert installed.run("python", "asked.py").strip() == "1"
    installed.run("pip", "install", "--quiet", "dyndet[trace]")
    installed.run("python", "-c", "import opentelemetry.trace; exec(open('asked.py').read())")


def test_build_makes_a_deployment_of_a_checkpoint(
    installed: Installed, demo_checkpoint: Path, demo_images: Path
) -> None:
    export = ("dyndet", "export", demo_checkpoint, "-o", "bundle", "--images", demo_images, "--parity-images", "4")
    installed.install_what_is_missing(*export, extras="build")
    installed.run(*export)
    assert "GFLOPs" in installed.run("dyndet", "info", "dy-yolov7-pico")
    installed.run("dyndet", "info", "bundle")
    installed.run("dyndet", "render", "bundle", "models")
    installed.run("dyndet", "deploy", "render", "models", "deployed")
    assert (installed.folder / "deployed" / "compose.yaml").is_file()


def test_server_serves_a_repository(installed: Installed, toy_models: Path, photos: Path) -> None:
    installed.install_what_is_missing("dyndet", "serve", toy_models, extras="server")
    code = f"""
from pathlib import Path
from dyndet import Detector
from dyndet_builder.server.triton import TritonServer
with TritonServer(Path({str(toy_models)!r})) as server, Detector(server.grpc_url, model="toy") as detector:
    print(detector.detect({str(photos / "11.png")!r}).route)
"""
    assert installed.run("python", "-c", code).strip() == "hard"
    assert "docker run" in installed.run("dyndet", "serve", toy_models, "--docker")


def test_bench_measures_a_running_server(installed: Installed, toy_server: TritonServer, photos: Path) -> None:
    few = ("--hard-shares", "0,1", "--concurrency", "1", "--repetitions", "1", "--requests", "40")
    sweep = ("dyndet", "bench", "sweep", "--url", toy_server.grpc_url, "--model", "toy", "--images", photos, *few)
    report = ("-o", "swept")
    installed.install_what_is_missing(*sweep, *report, extras="bench")
    installed.run("dyndet", "bench", "plot", ROOT / "docs" / "demo-report", "-o", "plot.svg")
    parts = {part["name"]: part for part in json.loads(installed.run("dyndet", "doctor", "--json"))}
    if not parts["perf_analyzer"]["present"]:  # on an older system, the server's wheel has what it needs
        if installed.run("python", "-c", "import sys; print(sys.version_info >= (3, 12))") == "True\n":
            pytest.skip("constraints.txt has no perf_analyzer for this Python on this system")
        installed.run("bash", "-c", parts["perf_analyzer"]["remedy"])
    installed.run(*sweep, *report)
    assert (installed.folder / "swept" / "report.html").is_file()


def test_train_trains_and_evaluates(installed: Installed, demo_images: Path, tmp_path: Path) -> None:
    names = [one["name"] for one in json.loads((demo_images.parent / "annotations.json").read_text())["categories"]]
    data = write_small_data(tmp_path / "data", demo_images, names, count=8)
    few = ("--epochs", "2", "--final-epochs", "1", "--size", "128", "--batch", "4")
    train = ("dyndet", "train", "detectors", data, "-o", "own.safetensors", "--architecture", "dy-yolov7-pico", *few)
    installed.install_what_is_missing(*train, extras="train")
    installed.run(*train)
    installed.run("dyndet", "train", "router", "own.safetensors", data, "--examples", "16")
    evaluated = json.loads(installed.run("dyndet", "evaluate", "own.safetensors", "--data", data, "--json"))
    assert np.isfinite(evaluated["ap"]["easy"]["ap"])


def test_all_extras_fit_together(installed: Installed) -> None:
    installed.run("pip", "install", "--quiet", "dyndet[all]")
    installed.run("pip", "check")
    parts = json.loads(installed.run("dyndet", "doctor", "--json"))
    assert [part["name"] for part in parts if part["needed"] and not part["present"]] in ([], ["perf_analyzer"])


def _write_clip(path: Path) -> None:
    import av

    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(5):
            frame = np.full((64, 64, 3), 40 * number, np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())
