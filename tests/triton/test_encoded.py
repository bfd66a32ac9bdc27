"""Picture files in, boxes in their own pixels out: the variant `<name>_encoded` on the real server.

What is right is what the client makes of the same file: it decodes and letterboxes here, and asks the public model.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dynamicdet.errors import InputError
from dynamicdet.images import read_image
from dynamicdet.picture_files import open_picture
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.triton import TritonServer
from dyndet_client import Detector
from dyndet_client.codec import has_area
from tests.support.picture_files import (
    accepted_files,
    encode,
    jpeg_header,
    many_scans,
    png_header,
    refused_files,
    turned,
    unusual_files,
)
from tests.support.toy_bundle import FAIL_BACKBONE1, FAIL_HEAD1, SIZE, image, write_toy_bundle

OUTPUTS = ("num_detections", "boxes", "scores", "classes", "difficulty", "route", "image_size")
ROUTES = {1: "easy", 2: "hard", -2: "fallback"}
PLANTED = 1077
_FAULT = f"""

def open_file(data, *, max_bytes, opened=open_file):
    file = opened(data, max_bytes=max_bytes)
    if file.width == {PLANTED}:
        raise OSError("region /dev/shm/dyndet_1 of key secret, in /opt/models/model.py")
    return file
"""
"""a fault that nobody expects, in pictures of one width"""
pictures = importlib.import_module("dyndet_templates.encoded.pictures")

Answer = dict[str, Any]


@dataclass(frozen=True)
class Encoded:
    """A served detector with its variant for files."""

    server: TritonServer
    client: triton.InferenceServerClient
    detector: Detector
    model: str

    def infer(
        self,
        *files: bytes,
        threshold: float | None = None,
        outputs: tuple[str, ...] = OUTPUTS,
        parameters: dict[str, Any] | None = None,
    ) -> Answer:
        inputs = [_input("image_bytes", np.array([[file] for file in files], object))]
        if threshold is not None:
            inputs.append(_input("threshold", np.full((len(files), 1), threshold, np.float32)))
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        answer = self.client.infer(self.model, inputs, outputs=wanted, parameters=parameters, client_timeout=60)
        return {name: answer.as_numpy(name) for name in outputs}

    def error(self, *files: bytes, **options: Any) -> str:
        with pytest.raises(InferenceServerException) as caught:
            self.infer(*files, **options)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        return str(caught.value.message())

    def check_as_the_client(self, answer: Answer, row: int, file: bytes, threshold: float | None = None) -> None:
        """One row of an answer is what the client finds in the same file."""
        found = self.detector.detect(file, threshold=threshold, min_score=0)
        count = int(answer["num_detections"][row, 0])
        visible = np.flatnonzero(has_area(answer["boxes"][row, :count]))  # the client leaves out what lies in a border
        order = visible[np.argsort(-answer["scores"][row, visible], kind="stable")]
        assert len(order) == len(found.scores)
        assert tuple(answer["image_size"][row]) == found.image_size
        assert np.allclose(answer["boxes"][row, :count][order], found.boxes, rtol=0, atol=0.01)
        assert np.allclose(answer["scores"][row, :count][order], found.scores, rtol=0, atol=1e-5)
        assert answer["classes"][row, :count][order].tolist() == found.classes.tolist()
        assert answer["difficulty"][row, 0] == pytest.approx(found.difficulty, abs=1e-5)
        assert ROUTES[int(answer["route"][row, 0])] == found.route
        assert not answer["boxes"][row, count:].any()


def _input(name: str, array: Any) -> triton.InferInput:
    given = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    return given


def _served(repository: Path, name: str) -> Iterator[Encoded]:
    with TritonServer(repository) as server, Detector(server.grpc_url, model=name) as detector:
        assert server.detectors == (name,)
        client = triton.InferenceServerClient(server.grpc_url)
        yield Encoded(server, client, detector, f"{name}_encoded")
        client.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoded]:
    folder = tmp_path_factory.mktemp("encoded")
    # One instance, so that calls merge requests, and a picture that takes long has no other one to pass it by.
    options = RenderOptions(encoded=True, bls_instances=1, max_file_mb=20)
    repository = render(write_toy_bundle(folder / "bundle"), folder / "models", options)
    with (repository / "toy_encoded" / "1" / "pictures.py").open("a") as code:
        code.write(_FAULT)
    yield from _served(repository, "toy")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Iterator[Encoded]:
    folder = tmp_path_factory.mktemp("real")
    yield from _served(
        render(bundle_folder, folder / "models", RenderOptions(encoded=True, topology="fused")), "dyndet"
    )


def _good() -> bytes:
    return encode(image(red=102, blue=51))  # of the network's size: its commands arrive as they are


def test_photographs_give_what_the_client_finds(real: Encoded, demo_images: Path) -> None:
    """JPEGs as they are, turned by EXIF data, and re-encoded; singly, in a batch, and on either route."""
    files = [path.read_bytes() for path in sorted(demo_images.glob("*.jpg"))[:4]]
    photograph = Image.open(io.BytesIO(files[0]))
    files.append(encode(photograph, "JPEG", quality=95, exif=turned(6), subsampling=0, progressive=True))
    files.append(encode(photograph.resize((1500, 1125)), "PNG", exif=turned(3)))
    files.append(encode(photograph.convert("L"), "JPEG"))
    found = 0
    for threshold in (None, 0.0, 1.0):
        batch = real.infer(*files, threshold=threshold)
        for row, file in enumerate(files):
            real.check_as_the_client(batch, row, file, threshold)
            real.check_as_the_client(real.infer(file, threshold=threshold), 0, file, threshold)
        found += int((batch["scores"] > 0.25).sum())
    assert found > 20  # else nothing was compared


def test_pictures_of_all_kinds_are_accepted_as_the_client_accepts_them(toy: Encoded) -> None:
    for name, file in unusual_files().items():
        try:
            toy.check_as_the_client(toy.infer(file), 0, file)
        except (InferenceServerException, AssertionError, InputError) as error:
            raise AssertionError(name) from error


def test_bad_files_get_an_error_and_the_server_lives(toy: Encoded) -> None:
    """Bombs are refused from the header: the memory of the process that decodes stays what it was."""
    jpeg = encode(np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8), "JPEG")
    ten_thousand = Image.new("1", (10_000, 10_000))
    files = {
        "cut off": (jpeg[: len(jpeg) // 2], "damaged or cut off"),
        "cut off in its header": (jpeg[:100], "damaged or cut off; its first bytes are those of a JPEG"),
        "random": (np.random.default_rng(1).bytes(5000), "not a readable image"),
        "random JPEG": (b"\xff\xd8\xff" + np.random.default_rng(1).bytes(5000), "damaged or cut off"),
        "empty": (b"", "empty (0 bytes)"),
        "text": (b"Dear server, please find my picture attached.", "not a readable image"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable image"),
        "60,000 squared": (png_header(60_000, 60_000), "too large, 60000 x 60000 pixels"),
        "12,000 x 10,000": (png_header(12_000, 10_000), "too large, 12000 x 10000 pixels"),
        "100 megapixels": (encode(ten_thousand), "too large, 10000 x 10000 pixels"),
        "a GIF of 100 megapixels": (encode(ten_thousand, "GIF"), "too large, 10000 x 10000 pixels"),
        "a JPEG that says it is large": (jpeg_header(65_000, 65_000), "too large, 65000 x 65000 pixels"),
        "scans": (many_scans(5000), "scans; dyndet accepts at most 100"),
        "cut off PNG": (encode(image(10))[:-400], "damaged or cut off"),
        **refused_files(),
    }
    toy.infer(_good())
    before = _peak_memory(toy)
    for name, (file, expected) in files.items():
        said = toy.error(file)
        code = "picture-too-large" if "too large, " in said else "bad-picture"
        assert "/" not in said.removeprefix("dyndet/"), name
        assert said.startswith(f"dyndet/{code}: the image bytes: "), name
        assert expected in said, name
        toy.check_as_the_client(toy.infer(_good()), 0, _good())
    assert _peak_memory(toy) - before < 100e6  # the largest of these files has 18 MB


def test_a_failed_request_is_counted_once_and_a_probe_nowhere(toy: Encoded) -> None:
    """By the model that found the failure: the detector counts what it refused itself."""

    def counted() -> Counter[str]:
        with urllib.request.urlopen(toy.server.metrics_url) as answer:
            lines = answer.read().decode().splitlines()
        failed = [line for line in lines if line.startswith(("dyndet_requests_failed_total{", "dyndet_routed_total{"))]
        return Counter({name: int(value) for name, value in (line.rsplit(" ", 1) for line in failed)})

    bad, failing = b"no image", encode(image(10, FAIL_HEAD1))
    time.sleep(0.5)
    before = counted()
    toy.infer(_good(), parameters={"dyndet_probe": True})
    for file in (bad, failing):
        for parameters in ({}, {"dyndet_probe": True}):
            with pytest.raises(InferenceServerException, match="dyndet/"):
                toy.infer(file, parameters=parameters)
    time.sleep(0.5)
    assert counted() - before == {
        'dyndet_requests_failed_total{model="toy_encoded",reason="bad_request"}': 1,
        'dyndet_requests_failed_total{model="toy",reason="stage_failed"}': 1,
    }


def _peak_memory(served: Encoded, which: str = "VmHWM:") -> int:
    """Bytes that the variant's process has held at most, or holds now."""
    for process in psutil.Process(served.server.pid).children(recursive=True):
        if any(f"/{served.model}/" in word for word in process.cmdline()):
            status = Path(f"/proc/{process.pid}/status").read_text()
            return 1024 * int(status.partition(which)[2].split()[0])
    raise AssertionError("no process serves the variant")


def test_large_pictures_are_decoded_one_at_a_time_and_their_memory_is_given_back(toy: Encoded) -> None:
    large = encode(Image.new("1", (6000, 5000)))
    peak, held = _peak_memory(toy), _peak_memory(toy, "VmRSS:")
    assert toy.infer(large, large, large)["image_size"].tolist() == [[6000, 5000]] * 3
    assert 100e6 < _peak_memory(toy) - peak < 500e6
    assert _peak_memory(toy, "VmRSS:") - held < 40e6


def test_others_are_answered_while_one_picture_is_decoded(toy: Encoded) -> None:
    """In the order of the answers: that to the large pictures, which were sent first, is the last."""
    large = encode(Image.new("L", (9000, 8000)))
    answered: list[str] = []
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(toy.infer, large, large, large, large)
        first.add_done_callback(lambda _: answered.append("large"))
        time.sleep(0.3)  # about five times as long as it takes to get there; the decoding takes seconds
        for _ in range(3):
            batch = [pool.submit(toy.infer, _good(), _good()) for _ in range(4)]
            for other in batch:
                assert other.result()["image_size"].tolist() == [[SIZE, SIZE]] * 2
                answered.append("other")
        assert first.result()["image_size"].tolist() == [[9000, 8000]] * 4
    assert answered == ["other"] * 12 + ["large"]


def test_more_large_pictures_than_are_put_aside_are_all_answered(toy: Encoded) -> None:
    large = encode(Image.new("1", (2100, 2000)))
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: toy.infer(large), range(48)))
    assert [answer["image_size"].tolist() for answer in answers] == [[[2100, 2000]]] * 48


def test_a_file_above_the_limit_is_refused_and_parts_of_no_use_are_passed_over(toy: Encoded) -> None:
    """`max_file_mb` is 20 here. A text of 100 MB in a PNG costs the server nothing, because nobody unpacks it."""
    said = toy.error(_good() + bytes(20 << 20))
    assert said.startswith("dyndet/picture-too-large: the image bytes: too large, ")
    assert said.endswith("bytes, above the limit of 20,971,520 bytes")
    before = _peak_memory(toy)
    for file, _ in accepted_files().values():
        opened = open_picture(file, "it")
        assert toy.infer(file)["image_size"].tolist() == [[opened.width, opened.height]]
    assert _peak_memory(toy) - before < 40e6


def test_memory_of_large_requests_comes_back(toy: Encoded) -> None:
    """Of the server and of the process that decodes, refused or not. Shared memory grows, but not with each request."""

    def shared() -> int:
        return sum(512 * file.stat().st_blocks for file in Path("/dev/shm").glob(f"dyndet_{os.getpid()}_*"))

    def held() -> tuple[int, int]:
        status = Path(f"/proc/{toy.server.pid}/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0]), _peak_memory(toy, "RssAnon:")

    large, too_large = _good() + bytes(19 << 20), _good() + bytes(50 << 20)
    for file, ask in ((large, toy.infer), (too_large, toy.error)):
        before = held()
        ask(file)
        grown = shared()
        for _ in range(10):
            ask(file)
        until = time.monotonic() + 10
        while (
            max(now - earlier for now, earlier in zip(held(), before, strict=True)) > 200e6
        ):  # the C library keeps some
            assert time.monotonic() < until, (before, held())
            toy.infer(_good())  # the last large request is put away after its answer was sent
        assert shared() - grown < 2.2 * len(file)  # the next request came before the last one was put away


_LOGGED = ("[ONNXRuntimeError]", "OSError: region /dev/shm/dyndet_1")


def test_what_goes_wrong_inside_stays_inside(toy: Encoded) -> None:
    """Texts for clients name no path, no region of shared memory and no line of code; the log has the details."""
    infer = toy.client.infer
    failing = image(10, FAIL_HEAD1)[None]
    said = {
        "a stage": _said(lambda: toy.infer(encode(failing[0]))),
        "a stage of the detector": _said(lambda: infer("toy", [_input("image", failing)])),
        "a stage itself": _said(lambda: infer("toy_backbone1", [_input("image", image(10, FAIL_BACKBONE1)[None])])),
        "a picture": _said(lambda: toy.infer(b"\x89PNG\r\n\x1a\n" + bytes(100))),
        "a point": _said(lambda: toy.infer(_good(), parameters={"dyndet_operating_point": "a"})),
        "a fault": _said(lambda: toy.infer(encode(Image.new("RGB", (PLANTED, 1))))),
    }
    for what, text in said.items():
        told = text.removeprefix("dyndet/")
        for hidden in ("/", "Traceback", ".py", "dyndet_", "shm", "ONNXRuntimeError", "region"):
            assert hidden not in told, (what, text)
    assert said["a fault"].startswith("dyndet/internal-error: the detector failed for a reason of its own")
    deadline = time.monotonic() + 10  # an answer can arrive before the server has written its log
    while not all(text in (log := toy.server.log_file.read_text()) for text in _LOGGED):
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
    toy.check_as_the_client(toy.infer(_good()), 0, _good())


def _said(ask: Callable[[], Any]) -> str:
    with pytest.raises(InferenceServerException) as caught:
        ask()
    return str(caught.value.message())


def test_an_error_names_the_picture_of_a_batch(toy: Encoded) -> None:
    good = _good()
    assert toy.error(good, b"text", good).startswith(
        "dyndet/bad-picture: image 2 of 3: the image bytes: not a readable image"
    )
    toy.check_as_the_client(toy.infer(good, encode(image(240)), good), 1, encode(image(240)))


def test_concurrent_requests_keep_order_and_errors_apart(toy: Encoded) -> None:
    files = [b"none" if seed % 8 == 3 else encode(image(seed * 5 % 255, seed=seed)) for seed in range(48)]

    def ask(file: bytes) -> Answer | str:
        try:
            return toy.infer(file)
        except InferenceServerException as error:
            return str(error.message())

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, files))
    for file, answer in zip(files, answers, strict=True):
        if isinstance(answer, str):
            assert (file, answer.startswith("dyndet/bad-picture: the image bytes: ")) == (b"none", True)
        else:
            toy.check_as_the_client(answer, 0, file)


def test_a_damaged_request_harms_no_other(toy: Encoded) -> None:
    """Triton 2.51 fails all requests that it has merged with one whose text is shorter than it says."""
    damaged = service_pb2.ModelInferRequest(model_name=toy.model)
    damaged.inputs.add(name="image_bytes", datatype="BYTES", shape=(1, 1))
    damaged.raw_input_contents.append(struct.pack("<I", 100_000) + b"short")
    good = encode(image(10))
    with grpc.insecure_channel(toy.server.grpc_url) as channel, ThreadPoolExecutor(12) as pool:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        damaged_calls = [pool.submit(ask, damaged, timeout=60) for _ in range(12)]
        answers = [pool.submit(toy.infer, good) for _ in range(24)]
        damaged_calls += [pool.submit(ask, damaged, timeout=60) for _ in range(12)]
        assert all(isinstance(call.exception(), grpc.RpcError) for call in damaged_calls)
        assert [answer.result()["route"].item() for answer in answers] == [1] * 24


def test_options_and_errors_are_those_of_the_detector(toy: Encoded) -> None:
    assert ROUTES[toy.infer(_good(), threshold=0.39)["route"].item()] == "hard"
    assert ROUTES[toy.infer(_good(), threshold=0.41)["route"].item()] == "easy"
    told = toy.infer(_good(), b"no picture", outputs=("operating_points",))["operating_points"]
    assert told.shape == (2, 1) and json.loads(told[1, 0])["points"] == {"uncalibrated": {"threshold": 0.5}}
    named = toy.infer(_good(), parameters={"dyndet_operating_point": "uncalibrated"})
    assert ROUTES[named["route"].item()] == "easy"
    unknown = toy.error(_good(), parameters={"dyndet_operating_point": "turbo"})
    assert unknown.startswith("dyndet/unknown-operating-point: operating point 'turbo' is not known")
    threshold = toy.error(_good(), threshold=2)
    assert threshold.startswith("dyndet/bad-threshold: threshold must be a finite number from 0 to 1, not 2")
    with pytest.raises(InferenceServerException, match="dyndet/stage-failed: stage toy_head1 failed"):
        toy.infer(encode(image(10, green=FAIL_HEAD1)))


def test_what_is_not_wanted_is_not_computed(toy: Encoded) -> None:
    def ran(model: str, ask: Callable[[], Answer]) -> bool:
        before = toy.client.get_inference_statistics(model).model_stats[0].inference_count
        ask()
        return bool(toy.client.get_inference_statistics(model).model_stats[0].inference_count > before)

    wide = encode(image(10), "PNG")
    assert not ran("toy", lambda: toy.infer(wide, outputs=("image_size",)))
    assert not ran("toy_head1", lambda: toy.infer(wide, outputs=("difficulty", "image_size")))
    assert np.array_equal(toy.infer(wide, outputs=("boxes",))["boxes"], toy.infer(wide)["boxes"])


def test_other_inputs_are_refused_and_the_server_lives(toy: Encoded) -> None:
    pixels = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    for given, said in (
        (_input("threshold", np.array([[0.5]], np.float32)), "dyndet/missing-input: the input image_bytes is missing"),
        (_input("image_bytes", pixels.reshape(1, -1)[:, :1]), "expects 'BYTES'"),
        (_input("image", pixels), "unexpected inference input 'image'"),
        (_input("image_bytes", np.array([[_good(), _good()]], object)), r"Expected \[-1,1\], got \[1,2\]"),
        (_input("image_bytes", np.array([[_good()]] * 9, object)), "batch-size must be <= 8"),
    ):
        with pytest.raises(InferenceServerException, match=said):
            toy.client.infer(toy.model, [given])
    toy.check_as_the_client(toy.infer(_good()), 0, _good())


def test_documented_examples_run(toy: Encoded, tmp_path: Path) -> None:
    """With this server's ports and model in place of the documented ones."""
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    (tmp_path / "street.jpg").write_bytes(encode(image(10), "JPEG"))
    for language, command, url, documented in (
        ("python", sys.executable, toy.server.grpc_url, "127.0.0.1:8001"),
        ("bash", "bash", toy.server.http_url, "127.0.0.1:8000"),
    ):
        code = text.partition(f"```{language}\n")[2].partition("```")[0]
        assert documented in code
        if language == "bash" and shutil.which("curl") is None:
            continue
        code = code.replace(documented, url).replace("dyndet_encoded", toy.model)
        ran = subprocess.run([command, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "[32 32] [[" in ran.stdout or '"name":"boxes"' in ran.stdout, ran.stdout


@pytest.mark.parametrize("with_simplejpeg", [True, False])
def test_the_fast_decoder_judges_as_the_client_does(with_simplejpeg: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage of any kind, anywhere in a JPEG: the same pixels, or the same refusal."""
    if not with_simplejpeg:
        monkeypatch.setattr(pictures, "simplejpeg", None)
    random = np.random.default_rng(0)
    soft = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8)).resize((120, 90))
    whole = [
        encode(soft, "JPEG")[:-2],
        encode(soft, "JPEG"),
        encode(soft, "JPEG", progressive=True, subsampling=0),
        encode(soft, "JPEG", exif=turned(5), restart_marker_rows=1),
        encode(soft.convert("L"), "JPEG"),
    ]
    damaged = list(unusual_files().values())
    for file in whole:
        damaged += [file[:length] for length in random.integers(1, len(file), 40)]
        for place in random.integers(2, len(file), 80):
            damaged.append(file[:place] + random.bytes(1) + file[place + 1 :])
    fast, refused = 0, 0
    for file in (*whole, *damaged):
        expected, found = _outcome(read_image, file), _outcome(_read_picture, file)
        if isinstance(expected, str):
            refused += 1
            assert found == expected
        else:
            assert isinstance(found, np.ndarray) and found.flags.c_contiguous
            assert np.array_equal(found, expected)
        fast += isinstance(_outcome(_decode_ordinary, file), np.ndarray)
    assert refused > 50
    assert fast > 50 if with_simplejpeg else fast == 0


def _read_picture(file: bytes) -> Any:
    return pictures.read_picture(pictures.open_file(file, max_bytes=1 << 20))


def _decode_ordinary(file: bytes) -> Any:
    return pictures._decode_ordinary(pictures.open_file(file, max_bytes=1 << 20))


def _outcome(read: Callable[[bytes], Any], file: bytes) -> Any:
    try:
        return read(file)
    except InputError as error:
        return str(error)


def test_parameters_that_cannot_be_passed_on_are_the_clients_fault_or_do_no_harm(toy: Encoded) -> None:
    """A decimal, and text that is not UTF-8, as only HTTP can send it."""
    picture = encode(image(red=10))
    element = len(picture).to_bytes(4, "little") + picture
    asked = {
        "name": "image_bytes",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(element)},
    }

    def answer(extra: bytes) -> tuple[int, bytes]:
        head = json.dumps({"inputs": [asked]}).encode()[:-1] + b", " + extra + b"}"
        headers = {"Inference-Header-Content-Length": str(len(head))}
        url = f"http://{toy.server.http_url}/v2/models/{toy.model}/infer"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, head + element, headers)) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    assert answer(b'"parameters": {"dyndet_x": 0.5}')[0] == 200
    status, text = answer(b'"parameters": {"dyndet_x": "\xff"}')
    assert (status, b"dyndet/bad-parameter: a parameter of the request, or its id, is not UTF-8" in text) == (400, True)
