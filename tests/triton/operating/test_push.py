"""A served detector is replaced and taken back while clients use it: no request is lost, whatever goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError, ServerError
from dyndet_builder.cli import dyndet, run
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.remote import Candidate, RemoteServer
from dyndet_builder.server.remote.control import ModelControl
from dyndet_builder.server.triton import TritonServer
from dyndet_client import Detector, Retries
from dyndet_client.transport import triton_client
from tests.support.toy_bundle import image, write_toy_bundle

_EASY_AT = {0.3: "hard", 0.5: "easy"}
"""the route of the picture below at the threshold of each build, which tells the builds apart"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server in explicit mode on an empty folder."""
    folder = tmp_path_factory.mktemp("live") / "models"
    folder.mkdir()
    with TritonServer(folder, ServerOptions(model_control="explicit", warm_up=False)) as server:
        yield server


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Renders a build of the toy detector with a threshold."""
    folder = tmp_path_factory.mktemp("builds")
    bundle = write_toy_bundle(folder / "bundle")

    def build(threshold: float, topology: str = "bls", label: str = "") -> Path:
        path = folder / f"{threshold}{topology}{label}"
        options = RenderOptions(name="street", topology=topology, threshold=threshold, threads=1, bls_instances=1)  # type: ignore[arg-type]
        return path if path.exists() else render(bundle, path, options)

    return build


@pytest.fixture
def remote(server: TritonServer, empty: RemoteServer, builds: Callable[..., Path]) -> RemoteServer:
    """The server as a push sees it, once it serves a build: tests of this file can run in several processes."""
    if "street" not in contents(server):
        empty.deploy(builds(0.3), "street")
    return empty


@pytest.fixture
def empty(server: TritonServer) -> RemoteServer:
    """The same, on which nothing was pushed yet if this is the first test; with short waits."""
    return RemoteServer(
        url=server.grpc_url,
        models=str(server.repository),
        metrics_url=server.metrics_url,
        wait_s=0.3,
        settle_s=0.5,
    )


def route(server: TritonServer) -> str:
    """How the served build answers, which tells which one it is."""
    with Detector(server.grpc_url, "street") as detector:
        return detector.detect(image(red=102)).route


def contents(server: TritonServer) -> list[str]:
    return sorted(path.name for path in server.repository.iterdir())


@contextmanager
def requests(server: TritonServer) -> Iterator[list[Any]]:
    """About 20 requests per second while the block runs; yields their routes and errors."""
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        with Detector(server.grpc_url, "street", retries=Retries(attempts=1)) as detector:
            while not stop.wait(0.05):
                try:
                    answers.append(detector.detect(image(red=102)).route)
                except Exception as error:
                    answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


def test_no_request_is_lost_when_builds_of_both_topologies_replace_each_other(
    server: TritonServer, empty: RemoteServer, builds: Callable[..., Path]
) -> None:
    remote = empty
    stranger = server.repository / "stranger"
    (stranger / "1").mkdir(parents=True)
    first = remote.deploy(builds(0.3), "street")
    assert first.models[-1] == "street" and len(first.models) == 4 and not first.can_roll_back
    with requests(server) as answers:
        assert remote.deploy(builds(0.5, "fused"), "street").can_roll_back
        assert route(server) == "easy"
        remote.rollback("street")
        assert route(server) == "hard"
    assert len(answers) > 20 and set(answers) == {"easy", "hard"}
    stages = [f"street_{stage}" for stage in ("backbone1", "detector2", "head1")]
    assert contents(server) == ["stranger", "street", "street.previous.tar", *stages]


def _broken_graph(build: Path) -> None:
    (build / "street_head1" / "1" / "model.onnx").write_bytes(b"junk")


def _broken_answers(build: Path) -> None:
    """It loads, but detector 2 fails for every picture, so its route is that of the fallback."""
    (build / "street_detector2" / "1" / "model.onnx").write_bytes(
        (build / "street_backbone1" / "1" / "model.onnx").read_bytes()
    )


@pytest.mark.parametrize(
    ("damage", "words"), [(_broken_graph, r"street_(b_)?head1"), (_broken_answers, "route -2 where 2 was forced")]
)
def test_a_broken_build_leaves_the_running_one_in_use_and_nothing_of_itself(
    server: TritonServer,
    remote: RemoteServer,
    builds: Callable[..., Path],
    damage: Callable[[Path], None],
    words: str,
) -> None:
    before, answer = contents(server), route(server)
    broken = builds(0.5, "bls", damage.__name__)
    damage(broken)
    with pytest.raises(ServerError, match=rf"{words}.*the running build of 'street' stays in use"):
        remote.deploy(broken, "street")
    with triton_client(server.grpc_url) as client:
        assert client.is_server_ready()  # it is not, as long as it knows of a model that failed
    assert (contents(server), route(server)) == (before, answer)


def test_a_switch_that_fails_is_taken_back_and_a_push_that_meets_it_is_refused(
    server: TritonServer, remote: RemoteServer, builds: Callable[..., Path]
) -> None:
    before, answer = contents(server), route(server)

    def damage(candidate: Candidate) -> None:
        with pytest.raises(InputError, match=r"another push of 'street' to .* is running \(.*process \d+"):
            remote.rollback("street")
        (server.repository / candidate.model / "1" / "model.py").write_text("raise RuntimeError('late')")

    with requests(server) as answers, pytest.raises(ServerError, match=r"late.*stays in use"):
        remote.deploy(builds(0.5, "fused"), "street", before_switch=damage)
    assert (contents(server), route(server), set(answers)) == (before, answer, {answer})


@pytest.mark.parametrize("moment", ["beside", "switched"])
def test_after_a_push_was_killed_the_old_build_answers_and_the_next_push_cleans_up(
    server: TritonServer, remote: RemoteServer, builds: Callable[..., Path], moment: str
) -> None:
    answer = route(server)
    new, topology = (0.3, "fused") if answer == "easy" else (0.5, "bls")
    program = f"""
import os, signal, sys
from pathlib import Path
from dyndet_builder.server.remote import RemoteServer
from dyndet_builder.server.remote.folder import Folder

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "switched":
    replace = Folder.replace
    Folder.replace = lambda self, *names: (replace(self, *names), die())
remote = RemoteServer(url={remote.url!r}, models={remote.models!r}, settle_s=0.5)
build = Path({str(builds(new, topology))!r})
remote.deploy(build, "street", before_switch=die if sys.argv[1] == "beside" else lambda _: None)
"""
    killed = subprocess.run([sys.executable, "-c", program, moment], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "street_next" in contents(server) and route(server) == answer
    remote.deploy(builds(new, topology), "street")
    assert route(server) == _EASY_AT[new]
    assert [name for name in contents(server) if "next" in name or name.startswith(".")] == []
    archived = tarfile.open(server.repository / "street.previous.tar").getnames()
    assert "street/1/operating_points.json" in archived


def test_a_full_disk_loses_nothing(server: TritonServer, remote: RemoteServer, builds: Callable[..., Path]) -> None:
    """A limit on the size of files stands for the disk: the archive of the running build is larger than it."""
    before, answer = contents(server), route(server)
    words = ["deploy", "push", str(builds(0.3, "fused")), "--url", remote.url, "--models", remote.models]
    command = f"ulimit -f 32 && exec {sys.executable} -m dyndet_builder.cli {' '.join(words)}"
    pushed = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert pushed.returncode == 2, pushed.stderr
    assert "cannot be written: File too large; the running build of 'street' stays in use" in pushed.stderr
    assert (contents(server), route(server)) == (before, answer)


def test_builds_that_differ_too_much_are_not_switched(
    server: TritonServer, remote: RemoteServer, builds: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    for red in (102, 10):  # only the first one is routed otherwise
        Image.fromarray(image(red=red, blue=200)).save(tmp_path / f"{red}.png")
    answer = route(server)
    new = builds(0.3 if answer == "easy" else 0.5, "fused")
    words = [str(new), "--url", remote.url, "--models", remote.models, "--compare", str(tmp_path), "--json"]
    assert run(dyndet, ["deploy", "push", *words, "--require-agreement", "60%"]) == 8
    output = capsys.readouterr()
    assert "agrees with the running one on 50.0% of 2 images, and 60.0% are required" in output.err
    found = json.loads(output.out)["comparison"]
    assert (found["agreement"], found["images"], [row["image"] for row in found["differing"]]) == (0.5, 2, ["102.png"])
    assert route(server) == answer
    assert run(dyndet, ["deploy", "push", *words, "--require-agreement", "50%"]) == 0
    assert route(server) != answer


def test_an_object_store_is_pushed_to_and_taken_back_and_a_lock_there_ends_with_its_owner(
    server: TritonServer, remote: RemoteServer, builds: Callable[..., Path]
) -> None:
    """fsspec's own view of the folder stands for the store: it can neither rename nor trade places."""
    store = replace(remote, models=f"file://{server.repository}")
    answer = route(server)
    lock = server.repository / ".street.lock"
    with requests(server) as answers:
        store.deploy(builds(0.3 if answer == "easy" else 0.5, "fused"), "street")
        assert route(server) != answer
        lock.write_text(json.dumps({"token": "another", "owner": "somebody", "time": time.time()}))
        with pytest.raises(InputError, match=r"another push of 'street' .*\(somebody\)"):
            store.rollback("street")
        lock.write_text(json.dumps({"token": "another", "owner": "somebody", "time": time.time() - 1000}))
        store.rollback("street")
    assert route(server) == answer and set(answers) == {"easy", "hard"} and not lock.exists()


def test_a_damaged_build_in_use_is_replaced_and_leaves_nothing_that_would_stop_the_next_push(
    server: TritonServer, remote: RemoteServer, builds: Callable[..., Path]
) -> None:
    answer = route(server)
    (server.repository / "street" / "config.pbtxt").write_text("garbage {")
    pushed = remote.deploy(builds(0.3 if answer == "easy" else 0.5, "fused"), "street")
    assert route(server) != answer and not pushed.can_roll_back
    assert any("not stored, because it was not whole: street/config.pbtxt is damaged" in note for note in pushed.notes)
    assert [name for name in contents(server) if "next" in name or name.startswith(".")] == []


def test_a_build_with_other_class_names_is_refused_before_anything_is_written(
    server: TritonServer, remote: RemoteServer, builds: Callable[..., Path]
) -> None:
    before, answer, change = contents(server), route(server), "Größe"
    other = builds(0.3 if answer == "easy" else 0.5, "fused", "renamed")
    config = other / "street" / "config.pbtxt"
    read = text_format.Parse(config.read_text(), pb.ModelConfig())
    names = json.loads(read.parameters["dyndet_class_names"].string_value)
    read.parameters["dyndet_class_names"].string_value = json.dumps(
        ["other" if one == change else one for one in names]
    )
    config.write_text(text_format.MessageToString(read))
    with pytest.raises(InputError, match=f"class {names.index(change)} is 'other' instead of '{change}'.*--name"):
        remote.deploy(other, "street")
    assert (contents(server), route(server)) == (before, answer)
    replace(remote, change_contract=True).deploy(other, "street")
    assert route(server) != answer


def test_asking_for_rights_unloads_nothing(server: TritonServer, remote: RemoteServer) -> None:
    control = ModelControl(remote.url, {})
    loaded = control.parameters("street")
    assert control.check_allowed() and control.parameters("street") == loaded is not None
