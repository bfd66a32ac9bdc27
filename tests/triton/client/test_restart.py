"""Servers that restart, clients that are killed, certificates and headers: on real servers of their own."""

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.ports import free_ports
from dyndet_builder.server.triton import TritonServer
from dyndet_client import (
    AccessDeniedError,
    AsyncDetector,
    Detector,
    MissingExtraError,
    ModelNotReadyError,
    Retries,
    ServerUnreachableError,
    SharedMemoryError,
    Tls,
)
from dyndet_client.shared_memory import FOLDER, SLOTS
from tests.support.picture_files import encode
from tests.support.programs.processes import started
from tests.support.toy_bundle import image, write_toy_bundle

_IN_FLIGHT = 200


@pytest.fixture(scope="module", autouse=True)
def servers_end_at_once() -> None:
    """No: one of these tests is about a server that stops as it would for an operator."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions(bls_instances=1))


def regions(address: str) -> set[str]:
    client = triton.InferenceServerClient(address)
    found = client.get_system_shared_memory_status(as_json=True).get("regions", {})
    client.close()
    return set(found)


def test_a_server_that_restarts_and_clients_that_are_killed(repository) -> None:
    http, grpc, metrics = free_ports(3)
    options = ServerOptions(http_port=http, grpc_port=grpc, metrics_port=metrics)
    address = f"127.0.0.1:{grpc}"
    patient = Detector(address, "toy", retries=Retries(attempts=100, longest_wait_s=0.5), timeout=60)
    hasty = Detector(address, "toy")
    with TritonServer(repository, options) as server:
        _check_killed_client(address)
        for detector in (patient, hasty):
            assert detector.detect(image(51)).difficulty == pytest.approx(0.2)
            assert detector.transport == "shared-memory"
        assert len(regions(address)) == 2
        server.stop()
    started = time.monotonic()
    with pytest.raises(ServerUnreachableError, match=str(grpc)):
        hasty.detect(image(51))
    assert time.monotonic() - started < 2
    found = []
    waiting = threading.Thread(target=lambda: found.append(patient.detect(image(102))))
    waiting.start()
    with TritonServer(repository, replace(options, warm_up=False, stop_timeout_s=0)):
        waiting.join()
        assert found[0].difficulty == pytest.approx(0.4)  # the call outlived the restart
        together = [answer.difficulty for answer in hasty.detect_many([image(51)] * 80, concurrency=SLOTS + 8)]
        assert together == pytest.approx([0.2] * 80)  # those that find no slot are sent over the network
        assert hasty.transport == patient.transport == "shared-memory" and len(regions(address)) == 2
        hasty.close()
        patient.close()
        assert not regions(address)


def test_a_stage_that_is_not_loaded_and_a_server_that_stops_have_codes(tmp_path) -> None:
    """To the SDK the one is a model that is not ready, the other a server that cannot be reached; never a failure."""
    options = RenderOptions(encoded=True, bls_instances=1)
    repository = render(write_toy_bundle(tmp_path / "bundle"), tmp_path / "models", options)
    models = ("toy_backbone1", "toy_head1", "toy_detector2", "toy", "toy_encoded")
    loaded = tuple(f"--load-model={model}" for model in models)
    explicit = ServerOptions(model_control="explicit", extra_arguments=loaded, warm_up=False)
    with TritonServer(repository, explicit) as server:
        admin = triton.InferenceServerClient(server.grpc_url)
        admin.unload_model("toy_head1")
        while admin.is_model_ready("toy_head1"):
            time.sleep(0.05)
        for model in ("toy", "toy_encoded"):
            for module, url, status in (
                (triton, server.grpc_url, "StatusCode.UNAVAILABLE"),
                (triton_http, server.http_url, "503"),
            ):
                refused = _error(module, url, model)
                assert refused.message().startswith("dyndet/not-ready: stage toy_head1 failed: ")
                assert refused.status() == status
        for url in (server.grpc_url, f"http://{server.http_url}"):
            with Detector(url, "toy") as detector, pytest.raises(ModelNotReadyError, match="stage toy_head1 failed: "):
                detector.detect(image(51))
        admin.load_model("toy_head1")
        said, raised = _errors_while_it_stops(server)
    # Which of these comes is a matter of timing; none says that a stage failed.
    expected = (
        "dyndet/server-stopping: stage toy_",
        "Server is stopping",
        "has no available versions",
        "Stream removed",
    )
    assert said
    assert [text for text in said if not any(sign in text for sign in expected)] == []
    assert set(raised) == {ServerUnreachableError}


def _errors_while_it_stops(server: TritonServer) -> tuple[list[str], list[type[Exception]]]:
    """What a bare client and the SDK get. Requests that wait for the detector meet the end between two stages."""
    said: list[str] = []
    places = threading.Semaphore(_IN_FLIGHT)

    def answered(result: object, error: InferenceServerException | None) -> None:
        if error is not None:
            said.append(str(error.message()))
        places.release()

    def ask_barely() -> None:
        with triton.InferenceServerClient(server.grpc_url) as client:
            while not said:
                places.acquire()
                client.async_infer("toy", [_input(triton, "toy")], answered)
            for _ in range(_IN_FLIGHT):  # until all are answered
                places.acquire()

    def ask(detector: Detector) -> type[Exception]:
        try:
            while True:
                detector.detect(image(51))
        except Exception as error:
            return type(error)

    with ThreadPoolExecutor(3) as pool, Detector(server.grpc_url, "toy", retries=Retries(attempts=1)) as detector:
        barely = pool.submit(ask_barely)
        raised = [pool.submit(ask, detector) for _ in range(2)]
        time.sleep(0.5)
        server.stop()
        barely.result()
        return said, [kind.result() for kind in raised]


def _input(module, model: str):
    array = image(51)[None] if model == "toy" else np.array([[encode(image(51))]], object)
    name = "image" if model == "toy" else "image_bytes"
    given = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    return given


def _error(module, url: str, model: str) -> InferenceServerException:
    client = module.InferenceServerClient(url)
    try:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, [_input(module, model)])
        return caught.value
    finally:
        client.close()


def _check_killed_client(address: str) -> None:
    code = (
        "import sys, numpy as np, dyndet_client; detector = dyndet_client.Detector(sys.argv[1], 'toy');"
        "detector.detect(np.zeros((32, 32, 3), np.uint8)); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, address]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        client.stdout.readline()
        (left,) = regions(address)
        client.send_signal(signal.SIGKILL)
        client.wait()
    assert regions(address) == {left} and (FOLDER / left).exists()
    with Detector(address, "toy"):
        assert left not in regions(address) and not (FOLDER / left).exists()
    forgotten = [sys.executable, "-c", code.replace("sys.stdin.read()", ""), address]
    subprocess.run(forgotten, check=True, stdout=subprocess.DEVNULL)  # never closed, but the program ended by itself
    assert not regions(address)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def guarded(repository, certificates):
    """A server with TLS over gRPC that answers inferences only if the header is right."""
    arguments = (
        "--grpc-use-ssl=1",
        f"--grpc-server-cert={certificates / 'cert.pem'}",
        f"--grpc-server-key={certificates / 'key.pem'}",
        "--grpc-restricted-protocol=inference:team=yellow",
        "--grpc-restricted-protocol=metadata:team=blue",  # then nobody learns the server's version
        "--http-restricted-api=inference:authorization=Bearer yellow",
    )
    options = ServerOptions(warm_up=False, log_verbose=1, extra_arguments=arguments, stop_timeout_s=0)
    with TritonServer(repository, options) as server:
        yield server


GRPC_HEADERS = {"triton-grpc-protocol-team": "yellow"}


def test_certificates_and_headers_over_grpc(guarded, certificates) -> None:
    url, tls = f"grpcs://{guarded.grpc_url}", Tls(ca_file=certificates / "cert.pem")
    with Detector(url, "toy", tls=tls, headers=GRPC_HEADERS) as detector:
        assert detector.detect(image(51), request_id="street-7").difficulty == pytest.approx(0.2)
        assert re.search(r"street-7", guarded.log_file.read_text())

    async def in_loop() -> float:
        async with AsyncDetector(url, "toy", tls=tls, headers=GRPC_HEADERS) as detector:
            return (await detector.detect(image(51))).difficulty

    assert asyncio.run(in_loop()) == pytest.approx(0.2)
    with Detector(url, "toy", tls=tls) as without, pytest.raises(AccessDeniedError, match="team"):
        without.detect(image(51))
    for stranger, cause in (
        (Detector(url, "toy", headers=GRPC_HEADERS), "TLS handshake failed: CERTIFICATE_VERIFY_FAILED"),
        (Detector(guarded.grpc_url, "toy"), "no Triton server answers"),
    ):
        with pytest.raises(ServerUnreachableError, match=cause):
            stranger.connect()


def test_a_token_over_http(guarded) -> None:
    url = f"http://{guarded.http_url}"
    with Detector(url, "toy", token="yellow") as detector:
        assert detector.detect(image(51)).difficulty == pytest.approx(0.2)
    with Detector(url, "toy", token="blue") as detector, pytest.raises(AccessDeniedError, match="denies access"):
        detector.detect(image(51))


def test_certificates_over_https(guarded, certificates) -> None:
    """Triton's HTTP has no TLS of its own; a proxy in front of it has, as it would be in production."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, _, port = guarded.http_url.rpartition(":")
        threading.Thread(target=_forward, args=(listener, context, (host, int(port))), daemon=True).start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        with Detector(url, "toy", token="yellow", tls=Tls(ca_file=certificates / "cert.pem")) as detector:
            assert detector.detect(image(51)).difficulty == pytest.approx(0.2)
        with pytest.raises(ServerUnreachableError, match="certificate"):
            Detector(url, "toy", token="yellow").connect()


def _forward(listener: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        try:
            inside = context.wrap_socket(plain, server_side=True)
        except OSError:
            continue
        outside = socket.create_connection(target)
        for pair in ((inside, outside), (outside, inside)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


def test_a_server_that_may_not_use_shared_memory(guarded, certificates, monkeypatch) -> None:
    """What a container without the host's memory answers, for a region that is not where the client says."""
    url, tls = f"grpcs://{guarded.grpc_url}", Tls(ca_file=certificates / "cert.pem")
    elsewhere = certificates / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("dyndet_client.shared_memory.FOLDER", elsewhere)
    with Detector(url, "toy", tls=tls, headers=GRPC_HEADERS) as detector:
        assert detector.transport == "network" and detector.detect(image(51)).route
    with pytest.raises(SharedMemoryError, match="--allow-client-shm"):
        Detector(url, "toy", tls=tls, headers=GRPC_HEADERS, transport="shared-memory").connect()
    assert not list(elsewhere.iterdir())
    with pytest.raises(MissingExtraError, match=r"tritonclient\[cuda\]"):
        Detector(url, "toy", tls=tls, headers=GRPC_HEADERS, transport="cuda-shared-memory").connect()
