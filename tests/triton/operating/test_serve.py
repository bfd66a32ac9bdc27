"""The launcher of the embedded server: clear errors, and nothing left behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from dynamicdet.errors import InputError, ServerError
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.admin import key_file, new_key, read_key
from dyndet_builder.server.api import TritonApi
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.ports import free_ports
from dyndet_builder.server.triton import DEFAULT_PORTS, TritonServer
from tests.support.programs.processes import started
from tests.support.toy_bundle import write_toy_bundle

_DYNDET = Path(sys.executable).parent / "dyndet"
_DOUBLE = """
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("y", x * 2)]) for x in inputs]
"""
_BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("the weights are on holiday")
    def execute(self, requests):
        return []
"""
_TROUBLED = (
    """
import os, signal, socket
from pathlib import Path
server = os.getppid()
"""
    + _DOUBLE
    + """
    def initialize(self, args):
        file = Path(__file__).parent / "attempts"
        attempt = len(file.read_text()) + 1 if file.exists() else 1
        file.write_text("x" * attempt)
        if attempt == 1:
            os.kill(server, signal.SIGABRT)
        if attempt == 2:
            words = Path(f"/proc/{server}/cmdline").read_text().split("\\0")
            port = next(word for word in words if word.startswith("--http-port=")).partition("=")[2]
            self.taken = socket.create_server(("127.0.0.1", int(port)))
"""
)
_PATIENT = """
import time
from pathlib import Path
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        (Path(__file__).parent / "asked").touch()
        inputs = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        time.sleep(float(inputs[0][0, 0]))
        return [pb.InferenceResponse([pb.Tensor("y", x * 2)]) for x in inputs]
"""
_SLOW_TO_STOP = (
    _DOUBLE
    + """
    def finalize(self):
        import time
        time.sleep(60)
"""
)
_CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
"""


@pytest.fixture(scope="module", autouse=True)
def servers_end_at_once() -> None:
    """No: these tests are about how a server stops."""


def _repository(folder: Path, code: str) -> Path:
    (folder / "double" / "1").mkdir(parents=True)
    (folder / "double" / "config.pbtxt").write_text(_CONFIG)
    (folder / "double" / "1" / "model.py").write_text(code)
    return folder


def _traces(mark: str) -> list[str]:
    """Processes and shared memory that belong to a repository or process."""
    processes = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(
            mark in word for word in process.info["cmdline"] or ()
        ):
            processes.append(" ".join(process.info["cmdline"])[:200])
    return processes


def _shared_memory(pid: int) -> set[str]:
    """Shared memory of all servers that a process started."""
    return {path.name for path in Path("/dev/shm").glob(f"dyndet_{pid}_*")}


def test_stopping_leaves_no_process_and_no_shared_memory(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _DOUBLE)
    of_others = _shared_memory(os.getpid())  # the server that the tests share may be running
    with TritonServer(repository) as server:
        assert server.running
        assert psutil.Process(server.pid).name().startswith("tritonserver")
        run_folder = server.log_file.parent
        assert len(_traces(str(repository))) >= 3  # guard, server, stub
        assert _shared_memory(os.getpid()) > of_others
    assert _traces(str(repository)) == []
    assert _shared_memory(os.getpid()) <= of_others
    assert not run_folder.exists()


def test_a_stop_takes_no_longer_than_the_environment_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = _repository(tmp_path / "models", _SLOW_TO_STOP)
    monkeypatch.setenv("DYNDET_STOP_TIMEOUT_S", "1")
    with TritonServer(repository) as server:
        started = time.monotonic()
        server.stop()
    assert time.monotonic() - started < 8  # 10 s pass by default before Triton gives the model up
    assert _traces(str(repository)) == []


def test_a_killed_server_is_noticed_and_leaves_nothing(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _DOUBLE)
    of_others = _shared_memory(os.getpid())
    with TritonServer(repository) as server:
        os.kill(server.pid, signal.SIGKILL)
        _wait_until(lambda: not server.running)
        assert _traces(str(repository)) == []
        assert _shared_memory(os.getpid()) <= of_others


def test_an_error_of_a_program_whose_server_has_died_says_how_it_died(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _DOUBLE)
    said = r"the server (was ended by|.* sent it) SIGTERM \(terminated\).* was not restarted.* before is not lost"
    with pytest.raises(ServerError, match=said), TritonServer(repository) as server:
        os.kill(server.pid, signal.SIGTERM)
        api = TritonApi(server.http_url)
        while True:
            api.models()


def test_a_start_that_crashes_or_loses_its_free_port_is_tried_again(tmp_path: Path) -> None:
    """The first attempt aborts; at the second, another program takes the HTTP port; the third succeeds."""
    repository = _repository(tmp_path / "models", _TROUBLED)
    log = tmp_path / "server.log"
    with TritonServer(repository, ServerOptions(log_file=log, stop_timeout_s=0)) as server:
        assert TritonApi(server.http_url).models() == {"double"}
    assert "already in use" in log.read_text()
    assert (repository / "double" / "1" / "attempts").read_text() == "xxx"
    for attempts in (1, 2):
        (repository / "double" / "1" / "attempts").unlink()
        options = ServerOptions(http_port=free_ports(1)[0], start_attempts=attempts, stop_timeout_s=0)
        said = {1: r"while starting, the server was ended by SIGABRT", 2: r"already in use \(2 attempts\)"}[attempts]
        with pytest.raises(ServerError, match=said), TritonServer(repository, options):
            pass


def test_killing_the_parent_stops_the_server(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _DOUBLE)
    code = (
        "import sys, time; from pathlib import Path; from dyndet_builder.server.triton import TritonServer\n"
        "with TritonServer(Path(sys.argv[1])) as server:\n"
        "    sys.stdout.write(str(server.log_file.parent) + '\\n'); sys.stdout.flush(); time.sleep(600)\n"
    )
    with started([sys.executable, "-c", code, str(repository)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        run_folder = Path(parent.stdout.readline().strip())
        assert run_folder.is_dir()
        parent.kill()
    _wait_until(lambda: not _traces(str(repository)) and not run_folder.exists())
    assert _shared_memory(parent.pid) == set()


def test_a_model_that_fails_to_load_shows_the_servers_reason(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _BROKEN)
    with pytest.raises(ServerError, match=r"double.*the weights are on holiday"), TritonServer(repository):
        pass
    assert _traces(str(repository)) == []


def test_damaged_models_are_named_with_the_first_line_of_the_reason(tmp_path: Path) -> None:
    """A graph that is cut off, and operating points that are no JSON, no object, and no operating points."""
    bundle = write_toy_bundle(tmp_path / "bundle")
    repository = render(bundle, tmp_path / "models", RenderOptions(name="cut"))
    with (repository / "cut_head1" / "1" / "model.onnx").open("r+b") as file:
        file.truncate(1000)
    damaged = {"none": '{"x":', "list": "[]", "empty": "{}"}
    for name, content in damaged.items():
        other = render(bundle, tmp_path / name, RenderOptions(name=name, topology="fused"))
        (other / name / "1" / "operating_points.json").write_text(content)
    others = tuple(f"--model-repository={tmp_path / name}" for name in damaged)
    with pytest.raises(ServerError) as caught:
        TritonServer(repository, ServerOptions(extra_arguments=others)).start()
    said = str(caught.value)
    assert "model cut_head1 cannot be loaded: Load model from " in said and "Protobuf parsing failed" in said
    assert "\n" not in said and "ONNXRuntimeError" not in said
    for name in damaged:
        points = rf"model {name} cannot be loaded: [^;]*/{name}/1/operating_points\.json is damaged \([^;]*\)"
        assert re.search(rf"{points}; correct it, or delete the file", said), said


def test_a_model_without_code_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """Triton itself waits for such a model without an end."""
    repository = _repository(tmp_path / "models", _DOUBLE)
    (repository / "double" / "1" / "model.py").unlink()
    with pytest.raises(InputError, match=r"double/1 lacks model.py"):
        TritonServer(repository)


def test_an_occupied_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _DOUBLE)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        log = tmp_path / "server.log"
        options = ServerOptions(grpc_port=port, log_file=log)
        with pytest.raises(ServerError, match=f"port {port} for grpc"), TritonServer(repository, options):
            pass
        assert not log.exists()


@pytest.mark.parametrize("content", [None, "empty"])
def test_what_is_no_repository_is_refused(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "models"
    if content:
        folder.mkdir()
    with pytest.raises(InputError, match="not a model repository"):
        TritonServer(folder)


def test_a_log_that_cannot_be_written_is_refused_before_the_start(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _DOUBLE)
    with (
        pytest.raises(InputError, match=r"nowhere/server\.log"),
        TritonServer(repository, ServerOptions(log_file=tmp_path / "nowhere" / "server.log")),
    ):
        pass


def test_serve_command_says_where_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _DOUBLE)
    command = [str(_DYNDET), "serve", str(repository), "--log-file", str(tmp_path / "log")]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert lines[1].split()[0] == "gRPC"
        host, _, port = lines[1].split()[1].partition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert _traces(str(repository)) == []
    assert "double" in (tmp_path / "log").read_text()


def test_a_key_opens_the_administrative_endpoints_and_only_the_server_shows_it(tmp_path: Path) -> None:
    """Its pictures are for this user alone: the mode of all shared memory is 0600.

    Without inference over HTTP, a request that would end this server is refused before its shape is read.
    """
    repository = _repository(tmp_path / "models", _DOUBLE)
    log, file, key, token = tmp_path / "log", tmp_path / "key", "0123456789+abc/DEF=", "token of a client"
    file.write_text(f"{key}\n")
    file.chmod(0o600)
    options = ("--admin-key-file", str(file), "--log-file", str(log), "--log-verbose", "1", "--no-http-inference")
    with _serve(repository, *options, DYNDET_ADMIN_KEY="another-key-0123456789", DYNDET_TOKEN=token) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        address, closed = lines[2].rpartition("//")[2].split(maxsplit=1)
        assert closed == "(no inference)\n"
        with_key, without = TritonApi(address, admin_key=key), TritonApi(address)
        assert with_key.models() == {"double"}
        with pytest.raises(ServerError, match="restricted"):
            without.models()
        for path in ("logging", "trace/setting", "systemsharedmemory/status"):
            assert without.ask("GET", f"/v2/{path}")[0] == 403
            assert with_key.ask("GET", f"/v2/{path}", headers={"dyndet-admin": key})[0] == 200
        huge = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[99999999999,320,320,3],"data":[]}]}'
        for api in (with_key, without):
            assert api.ask("POST", "/v2/models/double/infer", huge, headers={"dyndet-admin": key})[0] == 403
        assert without.ask("GET", "/v2/models/double")[0] == 200
        serve = psutil.Process(process.pid)
        guard, *others = serve.children(recursive=True)
        assert [one.name() for one in (serve, guard, *others) if key in " ".join(one.cmdline())] == ["tritonserver"]
        assert len(others) >= 2  # the server, the stub
        for one in others:
            assert not {"DYNDET_ADMIN_KEY", "DYNDET_TOKEN"} & set(one.environ())
        modes = {path.stat().st_mode & 0o777 for path in Path("/dev/shm").glob(f"dyndet_{process.pid}_*")}
        assert modes == {0o600}
        process.send_signal(signal.SIGINT)
        said = "".join((*lines, *process.communicate(timeout=60)))
        assert process.returncode == 0
    assert lines[4].split() == ["admin", "requires", "the", "key:", "--admin-header", f"@{file}"]
    assert "Warning" not in said
    for text in (said, log.read_text()):
        assert not any(secret in text for secret in (key, token, "another-key"))


def test_a_new_key_is_in_a_file_for_this_user_alone() -> None:
    key = new_key()
    with key_file(key) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert read_key(path) == key
    assert not path.exists()


@pytest.mark.parametrize(("seconds", "signals", "answered"), [(1.0, 1, True), (60.0, 2, False)])
def test_ctrl_c_in_a_terminal_lets_requests_finish_and_a_second_one_does_not(
    tmp_path: Path, seconds: float, signals: int, answered: bool
) -> None:
    """The signal goes to the whole process group, as a terminal sends it."""
    repository = _repository(tmp_path / "models", _PATIENT)
    with _serve(repository) as process, ThreadPoolExecutor() as pool:
        request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [seconds] * 4}]}
        api = TritonApi(_http(process))
        answer = pool.submit(api.infer, "double", request, b"", timeout_s=50)
        _wait_until((repository / "double" / "1" / "asked").exists)
        assert process.stderr is not None
        for sent in range(signals):
            os.killpg(process.pid, signal.SIGINT)
            if sent == 0:
                _wait_until(lambda: "Stopping:" in process.stderr.readline())  # type: ignore[union-attr]
        assert process.wait(40) == 0
        if answered:
            assert answer.result() == (200, "")
        else:
            with pytest.raises(OSError):
                answer.result()


def test_without_restarts_serve_ends_at_the_first_fault_and_names_it(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "models", _DOUBLE)
    with _serve(repository, "--no-restart") as process:
        assert process.stderr is not None
        _http(process)
        stubs = [one for one in psutil.Process(process.pid).children(recursive=True) if "stub" in one.cmdline()[0]]
        stubs[0].kill()
        assert process.wait(40) == 6
        said = process.stderr.read().strip()
        assert re.search(r"Error: (the|a) process of model double .*ended.*; the server was stopped$", said), said
    assert _traces(str(repository)) == []


def _serve(repository: Path, *options: str, **environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    command = [str(_DYNDET), "serve", str(repository), *options]
    pipe = subprocess.PIPE
    there = os.environ | environment
    return started(command, stdout=pipe, stderr=pipe, text=True, env=there, start_new_session=True)


def _http(process: subprocess.Popen[str]) -> str:
    """The HTTP address that the command prints."""
    assert process.stdout is not None
    return next(line.rpartition("//")[2].strip() for line in process.stdout if line.strip().startswith("HTTP"))


def test_serve_prints_the_docker_command(repository_folder: Path) -> None:
    command = [str(_DYNDET), "serve", str(repository_folder), "--docker", "--grpc-port", "9001"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "-p 127.0.0.1:9001:8001" in printed
    assert f"-v {repository_folder.resolve()}:/models:ro" in printed
    assert "onnxruntime" in printed


def test_the_real_server_takes_the_flags_of_an_empty_gpu_server(tmp_path: Path) -> None:
    command = docker_command(tmp_path, ports=DEFAULT_PORTS, model_control="explicit", gpus=(0,))
    flags = shlex.split(command[-1].partition("exec tritonserver ")[2])
    ours = [flag for flag in flags if not flag.startswith(("--model-repository", "--model-control"))]
    options = ServerOptions(model_control="explicit", warm_up=False, extra_arguments=tuple(ours))
    with TritonServer(tmp_path, options) as server:
        told = [
            line.split("|")[1:3] for line in server.log_file.read_text().splitlines() if "memory_pool_byte_size" in line
        ]
    pools = {name.strip(): value.strip() for name, value in told}
    sizes = [flag.rpartition(":")[2].rpartition("=")[2] for flag in ours if "memory-pool" in flag]
    assert [pools["cuda_memory_pool_byte_size{0}"], pools["pinned_memory_pool_byte_size"]] == sizes


def _wait_until(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
