"""The client against the real server: the same boxes as the bare graphs, clear errors, and pictures saved."""

import errno
import io
import json
import os
import re
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dynamicdet.images import read_image
from dynamicdet.letterbox import letterbox
from dyndet_bench.comparisons.client import measure_sdk_overhead
from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.cli import dyndet, run
from dyndet_client import (
    BadRequestError,
    DeadlineExceededError,
    Detections,
    Detector,
    ModelNotReadyError,
    NotADetectorError,
    ServerError,
)
from dyndet_client.cli.video import VideoReader, VideoWriter


@pytest.fixture
def detector(server):
    with Detector(server.grpc_url) as detector:
        yield detector


@pytest.fixture(scope="session")
def pictures(demo_images: Path) -> list[Path]:
    return sorted(demo_images.glob("*.jpg"))[:6]


class BareGraphs:
    """The exported stages, called without a server."""

    def __init__(self, folder: Path) -> None:
        bundle = read_bundle(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.size, self.class_names = bundle.input_size, bundle.class_names
        self._stages = {
            name: ort.InferenceSession(folder / stage.file, options, providers=["CPUExecutionProvider"])
            for name, stage in bundle.stages.items()
        }

    def _run(self, stage: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self._stages[stage]
        inputs = {tensor.name: tensors[tensor.name] for tensor in session.get_inputs()}
        return dict(zip([tensor.name for tensor in session.get_outputs()], session.run(None, inputs), strict=True))

    def detect(self, path: Path, stage: str) -> tuple[np.ndarray, np.ndarray, list[str], float]:
        boxed = letterbox(read_image(path), self.size)
        tensors = {"image": boxed.image[None]}
        tensors |= self._run("backbone1", tensors)
        found = self._run(stage, tensors)
        count = int(found["num_detections"].reshape(-1)[0])
        names = [self.class_names[number] for number in found["classes"][0, :count]]
        boxes = boxed.to_original(found["boxes"][0, :count])
        return boxes, found["scores"][0, :count], names, float(tensors["difficulty"].reshape(-1)[0])


@pytest.mark.parametrize(("threshold", "route", "stage"), [(1.0, "easy", "head1"), (0.0, "hard", "detector2")])
def test_detections_are_those_of_the_bare_graphs(detector, bundle_folder, pictures, threshold, route, stage) -> None:
    bare = BareGraphs(bundle_folder)
    assert detector.class_names == bare.class_names and detector.input_size == bare.size
    for path in pictures[:3]:
        boxes, scores, names, difficulty = bare.detect(path, stage)
        seen = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))  # the client drops boxes outside the picture
        boxes, scores, names = boxes[seen], scores[seen], [names[row] for row in seen]
        found = detector.detect(path, threshold=threshold, min_score=0.0)
        assert found.route == route and found.difficulty == pytest.approx(difficulty, abs=1e-3)
        missing = []
        for row, name in enumerate(names):
            close = (np.abs(found.boxes - boxes[row]).max(axis=1) < 0.2) & (np.abs(found.scores - scores[row]) < 1e-3)
            if name not in {found.names[match] for match in np.flatnonzero(close)}:
                missing.append(float(scores[row]))
        assert names and abs(len(found) - len(names)) <= len(names) * 0.05, path.name
        # among scores that hardly differ, the last digit decides which candidates are the 100 that leave the graph
        assert len(missing) <= len(names) * 0.05 and not any(score > 0.01 for score in missing), path.name


def test_a_picture_gives_the_same_answer_in_any_form(detector, pictures) -> None:
    def boxes(source) -> list:
        return detector.detect(source, min_score=0.05).boxes.tolist()

    path = pictures[0]
    expected = boxes(path)
    pil = Image.open(path)
    for source in (str(path), path.read_bytes(), pil, np.asarray(pil.convert("RGB"))):
        np.testing.assert_allclose(boxes(source), expected, atol=0.05)


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
def test_extreme_pictures_are_answered(detector, size) -> None:
    found = detector.detect(Image.new("RGB", size, (120, 90, 30)), min_score=0.0)
    assert found.image_size == size and (found.boxes <= [*size, *size]).all()


def test_threads_share_a_detector(detector, pictures) -> None:
    def summary(path: Path) -> tuple:
        found = detector.detect(path, min_score=0.3, timeout=60)
        return found.image_size, round(found.difficulty, 3)

    expected = [summary(path) for path in pictures]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(summary, pictures * 3)) == expected * 3


def _send(client: triton.InferenceServerClient, **tensors: np.ndarray) -> None:
    inputs = []
    for name, array in tensors.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    client.infer("dyndet", inputs, client_timeout=30)


def test_malformed_requests_get_an_error_and_the_server_keeps_serving(server, detector, pictures) -> None:
    size = detector.input_size
    good = np.zeros((1, size, size, 3), np.uint8)
    bad = [
        {"image": good.astype(np.float32)},
        {"image": np.zeros((1, size, size + 1, 3), np.uint8)},
        {"image": np.zeros((1, 3, size, size), np.uint8)},
        {"image": np.zeros((size, size, 3), np.uint8)},
        {"picture": good},
        {"image": good, "threshold": np.array([["0.5"]], object)},
        {"image": good, "threshold": np.array([[0.5, 0.5]], np.float32)},
        *({"image": good, "threshold": np.array([[value]], np.float32)} for value in (np.nan, np.inf, 2, -1)),
    ]
    client = triton.InferenceServerClient(server.grpc_url)
    for tensors in bad:
        with pytest.raises(InferenceServerException):
            _send(client, **tensors)
    client.close()
    assert detector.detect(pictures[0]).image_size


def test_the_servers_sentence_reaches_the_user(detector, pictures) -> None:
    with pytest.raises(ServerError, match="nowhere") as caught:
        detector.detect(pictures[0], operating_point="nowhere")
    assert isinstance(caught.value, BadRequestError)
    assert not any(text in str(caught.value) for text in ("\n", "Traceback", "dyndet/"))


def test_a_missing_model_and_a_foreign_model_are_told_apart(server) -> None:
    with pytest.raises(ModelNotReadyError, match=r"no model 'absent'; it serves .*dyndet"):
        Detector(server.grpc_url, model="absent").detect(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(NotADetectorError, match="dyndet_head1"), Detector(server.grpc_url, model="dyndet_head1"):
        pass


def test_a_deadline_is_kept(detector, pictures) -> None:
    with pytest.raises(DeadlineExceededError, match=r"0\.001 s"):
        detector.detect(pictures[0], timeout=0.001)
    assert detector.detect(pictures[0], timeout=60).image_size


@pytest.fixture
def in_folder(tmp_path: Path, pictures, monkeypatch) -> Path:
    """A working folder with two good images, two files that are not readable, and a video of five frames."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(pictures[0], "street.jpg")
    Path("other").mkdir()
    shutil.copy(pictures[1], "other/street.jpg")
    writer = VideoWriter(Path("clip.mp4"), Fraction(10))
    for picture in pictures[:5]:
        writer.write(Image.open(picture).convert("RGB").resize((320, 240)))
    writer.close()
    Path("ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    Path("notes.jpg").write_text("no picture")
    Path("cut.jpg").write_bytes(pictures[2].read_bytes()[:2000])
    return tmp_path


def test_detect_saves_annotated_pictures_and_never_touches_its_input(server, in_folder, capsys) -> None:
    before = {path: path.read_bytes() for path in in_folder.rglob("*.*")}
    inputs = ["street.jpg", "notes.jpg", "other/street.jpg", "cut.jpg"]
    assert run(dyndet, ["detect", *inputs, "--url", server.grpc_url, "--output", "."]) == 2
    captured = capsys.readouterr()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert captured.err.count("Error: ") == 2 and "notes.jpg" in captured.err and "cut.jpg" in captured.err
    assert "2 images answered" in captured.out
    saved = sorted(set(in_folder.rglob("*.*")) - set(before))
    assert [path.name for path in saved] == ["street-detected-2.jpg", "street-detected.jpg"]
    with Image.open("street.jpg") as source, Image.open("street-detected.jpg") as annotated:
        assert annotated.width == source.width and annotated.height > source.height


def test_json_lines_are_one_object_per_picture_that_could_be_read(server, in_folder, capsys) -> None:
    arguments = ["detect", "street.jpg", "notes.jpg", "other/street.jpg", "--url", server.grpc_url, "--threshold", "0"]
    assert run(dyndet, [*arguments, "--json"]) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == ["street.jpg", "other/street.jpg"]
    assert {line["route"] for line in lines} == {"hard"}
    assert not list(in_folder.rglob("*detected*"))


def test_an_output_folder_that_cannot_be_written_ends_in_one_sentence(server, in_folder, monkeypatch, capsys) -> None:
    def full_disk(_image: Image.Image, path: Path, *_args: object, **_options: object) -> None:
        path.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def detect(output: str) -> str:
        assert run(dyndet, ["detect", "street.jpg", "--url", server.grpc_url, "--output", output]) == 2
        return capsys.readouterr().err

    assert detect("notes.jpg/annotated") == (
        "Error: cannot write into the folder notes.jpg/annotated: Not a directory\n"
    )
    monkeypatch.setattr(Image.Image, "save", full_disk)
    assert detect("annotated") == "Error: annotated/street-detected.jpg cannot be written: No space left on device\n"
    assert not list((in_folder / "annotated").iterdir())


def test_videos_and_folders_give_lines_in_order_and_an_annotated_video(server, in_folder, capsys) -> None:
    arguments = ["detect", "clip.mp4", "other", "cut.jpg", "--url", server.grpc_url, "--every", "2"]
    assert run(dyndet, [*arguments, "--json", "--output", "out"]) == 2
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [(line.get("video"), line.get("frame"), line.get("time_s")) for line in lines[:3]] == [
        ("clip.mp4", 0, 0.0),
        ("clip.mp4", 2, 0.2),
        ("clip.mp4", 4, 0.4),
    ]
    assert lines[3]["image"] == "other/street.jpg" and len(lines) == 4
    assert captured.err.count("Error: ") == 1 and "cut.jpg" in captured.err
    assert {line["saved_as"] for line in lines} == {"out/clip-detected.mp4", "out/street-detected.jpg"}
    with VideoReader(Path("out/clip-detected.mp4")) as reader:
        frames = list(reader)
    assert len(frames) == 3 and reader.rate == 5 and frames[0].pixels.shape[0] > 240  # with the strip above
    assert run(dyndet, ["detect", "clip.mp4", "--url", server.grpc_url]) == 0
    assert "(5 frames)" in capsys.readouterr().out and Path("detections/clip-detected.mp4").stat().st_size > 1000


def test_a_video_that_breaks_off_keeps_what_was_read(server, in_folder, capsys) -> None:
    content = Path("clip.mp4").read_bytes()
    Path("broken.mp4").write_bytes(content[: len(content) // 3])
    assert run(dyndet, ["detect", "broken.mp4", "street.jpg", "--url", server.grpc_url, "--json"]) == 2
    captured = capsys.readouterr()
    assert "broken.mp4" in captured.err and "street.jpg" in captured.out.splitlines()[-1]


def test_an_unknown_operating_point_is_a_wrong_option(server, in_folder, capsys) -> None:
    assert run(dyndet, ["detect", "street.jpg", "--url", server.grpc_url, "--operating-point", "turbo"]) == 2
    assert "'turbo' is not known; this model's" in capsys.readouterr().err


def _blocks(language: str) -> list[str]:
    text = (Path(__file__).parents[3] / "docs" / "client.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", _blocks("python"), ids=lambda block: block.splitlines()[-1][:30])
def test_the_python_examples_of_the_documentation_run(server, in_folder, block) -> None:
    exec(block.replace("127.0.0.1:8001", server.grpc_url), {})


def test_the_shell_examples_of_the_documentation_run(server, in_folder, capsys) -> None:
    lines = [line for block in _blocks("console") for line in block.splitlines() if line.startswith("dyndet ")]
    for line in lines:
        assert run(dyndet, shlex.split(line.replace("127.0.0.1:8001", server.grpc_url))[1:]) == 0, line
    assert len(lines) == 6
    for folder in ("detections", "annotated"):
        assert (in_folder / folder / "street-detected.jpg").stat().st_size > 1000


@pytest.mark.timing
def test_what_the_sdk_adds_is_measured_beside_tritonclient(server, demo_images) -> None:
    record = measure_sdk_overhead(server.grpc_url, images=demo_images, rounds=2, max_images=6)
    assert record.image_bytes == 320 * 320 * 3 and record.images == 6
    for times in (record.network, record.network_async, record.shared_memory, record.shared_memory_async):
        assert times is not None and times.ratio_low <= times.ratio <= times.ratio_high < 1.5


def test_the_answer_is_drawn_where_the_objects_are(detector, pictures) -> None:
    found = detector.detect(pictures[0], threshold=0.0, min_score=0.1)
    assert isinstance(found, Detections)
    file = io.BytesIO()
    found.draw(pictures[0], header=False).save(file, "PNG")
    changed = (read_image(file.getvalue()) != read_image(pictures[0])).any()
    assert changed == (len(found) > 0)
