"""Masks on the real server: given to those who ask for them, by both topologies and for image files."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from pycocotools import mask as coco

from dyndet_bench.comparisons.masks import measure_mask_cost
from dyndet_bench.measuring.measure import measure
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.workload import Workload
from dyndet_bench.sweep.gallery import make_gallery
from dyndet_builder.cli import dyndet, run
from dyndet_builder.evaluation.evaluate import evaluate
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.remote.probe import probe
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.trying.asking import Answers, Asker, maker
from dyndet_client import AsyncDetector, Detector, Masks, NoMasksError, ServerError
from tests.support.toy_bundle import CLASSES, FAIL_DETECTOR2, FAIL_MASKS, ROWS, SIZE, image, toy_mask, write_toy_bundle

MODELS = ("bls", "fused", "merging")
DETECTOR = {"easy": 1, "hard": 2}
BOXES = ("num_detections", "boxes", "scores", "classes")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Both topologies, one that merges requests, and a detector without masks."""
    folder = tmp_path_factory.mktemp("masks")
    bundle = write_toy_bundle(folder / "toy", masks=True)
    one: dict[str, Any] = {"instances": 1, "bls_instances": 1, "threads": 1}
    merging = RenderOptions(name="merging", topology="fused", preferred_batches=(4,), queue_delay_us=100_000, **one)
    render(bundle, folder / "bls", RenderOptions(name="bls", encoded=True, **one))
    render(bundle, folder / "fused", RenderOptions(name="fused", topology="fused", **one))
    render(bundle, folder / "merging", merging)
    render(
        write_toy_bundle(folder / "plain_toy"), folder / "plain", RenderOptions(name="plain", topology="fused", **one)
    )
    others = tuple(f"--model-repository={folder / name}" for name in ("fused", "merging", "plain"))
    with TritonServer(folder / "bls", ServerOptions(extra_arguments=others)) as running:
        yield running


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("route", "threshold"), [("easy", 1.0), ("hard", 0.0)])
def test_who_asks_for_masks_gets_those_of_the_detector_that_answered(
    server: TritonServer, model: str, route: str, threshold: float
) -> None:
    with Detector(server.grpc_url, model) as detector:
        assert detector.has_masks
        plain = detector.detect(image(100, blue=200), threshold=threshold)
        found = detector.detect(image(100, blue=200), threshold=threshold, masks=True)
    assert plain.masks is None and found.masks is not None
    assert (found.route, len(found), len(found.masks)) == (route, 1, 1)
    np.testing.assert_array_equal(found.masks.values[0], toy_mask(100, detector=DETECTOR[route]))
    np.testing.assert_array_equal(found.boxes, plain.boxes)


@pytest.mark.parametrize("model", MODELS)
def test_masks_that_nobody_wants_are_neither_sent_nor_computed(server: TritonServer, model: str) -> None:
    """These pictures make masks fail, and them alone: those who ask for boxes never notice."""
    broken = image(100, FAIL_MASKS, 200)
    with Detector(server.grpc_url, model) as detector:
        for threshold, route in ((1.0, "easy"), (0.0, "hard")):
            assert detector.detect(broken, threshold=threshold).route == route
            with pytest.raises(ServerError, match=r"stage .*failed"):
                detector.detect(broken, threshold=threshold, masks=True)
    client = triton.InferenceServerClient(server.grpc_url)
    given = triton.InferInput("image", [1, SIZE, SIZE, 3], "UINT8")
    given.set_data_from_numpy(image(100)[None])
    sizes = {}
    for outputs in (BOXES, (*BOXES, "masks"), ("masks",)):
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        answer = client.infer(model, [given], outputs=wanted).get_response()
        assert [output.name for output in answer.outputs] == list(outputs)
        sizes[outputs] = sum(map(len, answer.raw_output_contents))
    client.close()
    assert sizes[(*BOXES, "masks")] == sizes[BOXES] + sizes[("masks",)] == sizes[BOXES] + ROWS * 28 * 28


@pytest.mark.parametrize("model", MODELS)
def test_who_names_all_outputs_can_do_without_masks(server: TritonServer, model: str) -> None:
    """As perf_analyzer names them: what it measures is what most clients ask for."""
    with Served(server.grpc_url, model, metrics_url=server.metrics_url) as served:
        picture = image(100, FAIL_MASKS, 200)
        with pytest.raises(ServerError, match=r"stage .*failed"):
            served.infer(picture, threshold=1.0, outputs=(*BOXES, "masks"))
        with pytest.raises(ServerError, match="answered without masks"):
            served.infer(picture, threshold=1.0, outputs=(*BOXES, "masks"), parameters={"dyndet_masks": False})
        with pytest.raises(ServerError, match="dyndet_masks must be true or false, not 'no'"):
            served.infer(picture, threshold=1.0, outputs=BOXES, parameters={"dyndet_masks": "no"})
        if model == "fused":
            with Workload([picture]) as workload:
                assert measure(served, find_perf_analyzer(), workload, threshold=1.0, requests=8).requests == 8


@pytest.mark.parametrize("model", MODELS)
def test_requests_that_are_answered_together_get_each_their_own(server: TritonServer, model: str) -> None:
    """Some want masks, others do not; images of both routes, also in one request."""
    reds = [20 + 9 * number for number in range(24)]
    with Detector(server.grpc_url, model, timeout=60) as detector, ThreadPoolExecutor(8) as pool:
        pictures = [image(red, blue=200, seed=red) for red in reds]
        answers = list(
            pool.map(lambda row: detector.detect(pictures[row], threshold=0.4, masks=row % 3 > 0), range(24))
        )
    for row, (red, found) in enumerate(zip(reds, answers, strict=True)):
        assert found.route == ("hard" if red > 0.4 * 255 else "easy")
        assert (found.masks is None) == (row % 3 == 0)
        if found.masks is not None:
            np.testing.assert_array_equal(found.masks.values[0], toy_mask(red, detector=DETECTOR[found.route]))
    client = triton.InferenceServerClient(server.grpc_url)
    inputs = [
        triton.InferInput("image", [3, SIZE, SIZE, 3], "UINT8"),
        triton.InferInput("threshold", [3, 1], "FP32"),
    ]
    inputs[0].set_data_from_numpy(np.stack([image(red) for red in (50, 150, 250)]))
    inputs[1].set_data_from_numpy(np.full((3, 1), 0.4, np.float32))
    answer = client.infer(model, inputs, outputs=[triton.InferRequestedOutput("masks")])
    client.close()
    for row, (red, number) in enumerate(((50, 1), (150, 2), (250, 2))):
        np.testing.assert_array_equal(answer.as_numpy("masks")[row, 0], toy_mask(red, detector=number))


def test_a_served_detector_has_the_mask_ap_of_its_bundle(server: TritonServer, tmp_path: Path) -> None:
    """Of pictures of one colour, each an object: detector 2 finds the masks of all, detector 1 those of the reddest.

    The boxes of both are right, and reach far out of the pictures, some of which are twice as large as the input.
    """
    data = write_coloured(tmp_path / "data", reds=(252, 252, 126, 126), sizes=(SIZE, 2 * SIZE, SIZE, 2 * SIZE))
    served = [evaluate(url=server.grpc_url, model=model, data=data, random_draws=1) for model in MODELS[:2]]
    bundle = evaluate(server.repository.parent / "toy", data=data, random_draws=1)
    for report in (bundle, *served):
        masks = report.evaluation.masks
        assert masks is not None and not report.notes[1:]
        assert (report.evaluation.easy.ap, report.evaluation.hard.ap) == (pytest.approx(100), pytest.approx(100))
        assert (masks.easy.ap, masks.hard.ap) == (pytest.approx(100 * 51 / 101), pytest.approx(100))
        assert masks.curve == (bundle.evaluation.masks or masks).curve


def write_coloured(folder: Path, *, reds: tuple[int, ...], sizes: tuple[int, ...]) -> Path:
    """A data set of square pictures, each of one colour, each an object of the first class."""
    (folder / "images").mkdir(parents=True)
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    for number, (red, size) in enumerate(zip(reds, sizes, strict=True), 1):
        Image.new("RGB", (size, size), (red, 0, 200)).save(folder / "images" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": size, "height": size})
        entry = {"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, size, size], "area": size * size}
        corners = [0, 0, size, 0, size, size, 0, size]
        content["annotations"].append({**entry, "iscrowd": 0, "segmentation": [corners]})
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_detector_1_answers_with_its_masks_if_detector_2_fails(server: TritonServer) -> None:
    for model in MODELS:
        with Detector(server.grpc_url, model, masks=True) as detector:
            found = detector.detect(image(100, FAIL_DETECTOR2, 200), threshold=0.0)
        assert found.route == "fallback" and found.masks is not None
        np.testing.assert_array_equal(found.masks.values[0], toy_mask(100, detector=1))


def test_every_way_to_ask_brings_the_same_masks(server: TritonServer) -> None:
    """gRPC and HTTP, shared memory, waiting and in an event loop, one image and many; a detector's own default."""
    picture = Image.fromarray(image(100, blue=200)).resize((90, 40), Image.Resampling.NEAREST)
    with Detector(server.grpc_url, "fused") as detector:
        expected = detector.detect(picture, masks=True)
    assert expected.masks is not None and expected.masks.image_size == (90, 40)
    for url in (server.grpc_url, f"http://{server.http_url}"):
        for transport in ("network", "shared-memory"):
            with Detector(url, "fused", transport=transport, masks=True) as detector:  # type: ignore[arg-type]
                assert detector.transport == transport
                assert detector.detect(picture) == expected
                assert [*detector.detect_many([picture] * 3)] == [expected] * 3
                assert detector.detect(picture, masks=False).masks is None

        async def ask(address: str) -> None:
            async with AsyncDetector(address, "fused") as later:
                assert await later.detect(picture, masks=True) == expected
                assert [one async for one in later.detect_many([picture] * 3, masks=True)] == [expected] * 3

        asyncio.run(ask(url))


def test_a_detector_without_masks_says_so_in_one_sentence(server: TritonServer) -> None:
    """Before anything is sent, and not once for each picture; also where masks are gone since the client connected."""
    said = r"^model 'plain' gives boxes but no masks: ask without masks, or serve a detector that has them"
    with Detector(server.grpc_url, "plain") as detector:
        assert not detector.has_masks
        with pytest.raises(NoMasksError, match=said):
            detector.detect(image(100), masks=True)
        with pytest.raises(NoMasksError, match=said):
            [*detector.detect_many([image(100)] * 3, errors="return", masks=True)]
        served = detector._connect(detector._deadline())
        detector._served = type(served)(name="plain", fit=served.fit, class_names=served.class_names, has_masks=True)
        with pytest.raises(NoMasksError, match=said):
            detector.detect(image(100), masks=True)
    with pytest.raises(NoMasksError, match=said), Detector(server.grpc_url, "plain", masks=True):
        pass

    async def connect() -> None:
        async with AsyncDetector(server.grpc_url, "plain", masks=True):
            pass

    with pytest.raises(NoMasksError, match=said):
        asyncio.run(connect())


def test_image_files_get_masks_that_fit_their_own_pixels(server: TritonServer) -> None:
    """The variant for files says which boxes masks span; with these, they are what the client makes of its answer."""
    file = io.BytesIO()
    Image.fromarray(image(100, blue=200)).resize((60, 90)).save(file, "PNG")
    client = triton.InferenceServerClient(server.grpc_url)
    given = triton.InferInput("image_bytes", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[file.getvalue()]], np.object_))
    outputs = ("num_detections", "boxes", "masks", "mask_boxes", "image_size")
    answer = client.infer("bls_encoded", [given], outputs=[triton.InferRequestedOutput(name) for name in outputs])
    tensors = {name: answer.as_numpy(name)[0] for name in outputs}
    alone = client.infer("bls_encoded", [given], outputs=[triton.InferRequestedOutput("mask_boxes")])
    client.close()
    np.testing.assert_array_equal(alone.as_numpy("mask_boxes")[0], tensors["mask_boxes"])
    count = int(tensors["num_detections"][0])
    with Detector(server.grpc_url, "bls") as detector:
        expected = detector.detect(file.getvalue(), masks=True, min_score=0)
    size = (int(tensors["image_size"][0]), int(tensors["image_size"][1]))
    found = Masks(values=tensors["masks"][:count], boxes=tensors["mask_boxes"][:count], image_size=size)
    assert found == expected.masks and size == (60, 90)
    assert (tensors["mask_boxes"][0] != tensors["boxes"][0]).any()  # this object is far larger than the picture


def test_the_example_of_the_documentation_shows_masks(
    server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(image(250, blue=200)).save("street.jpg", quality=100)
    text = (Path(__file__).parents[2] / "docs" / "client.md").read_text().partition("## Masks")[2]
    code = text.partition("```python\n")[2].partition("```")[0].replace("127.0.0.1:8001", server.grpc_url)
    names: dict[str, Any] = {}
    exec(code.replace(f'Detector("{server.grpc_url}")', f'Detector("{server.grpc_url}", "bls")'), names)
    assert names["everything"].shape == (len(names["found"]), SIZE, SIZE)
    assert f"{int(names['everything'][0].sum())} pixels" in capsys.readouterr().out


def test_the_command_draws_masks_and_writes_run_lengths(
    server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "street.png"
    Image.fromarray(image(250, blue=200)).save(picture)
    words = ["detect", str(picture), "--url", server.grpc_url, "--threshold", "1", "--output", str(tmp_path / "drawn")]
    assert run(dyndet, [*words, "--model", "bls", "--masks", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (one,) = told["detections"]
    assert coco.decode(one["segmentation"]).shape == (SIZE, SIZE)
    with Detector(server.grpc_url, "bls") as detector:
        mask = detector.detect(picture, threshold=1.0, masks=True)[0].mask
    assert mask is not None and mask.any()
    np.testing.assert_array_equal(coco.decode(one["segmentation"]), mask)
    masked = np.asarray(Image.open(tmp_path / "drawn" / "street-detected.jpg")).astype(int)
    assert run(dyndet, [*words, "--model", "bls", "--json"]) == 0
    assert "segmentation" not in json.loads(capsys.readouterr().out)["detections"][0]
    plain = np.asarray(Image.open(tmp_path / "drawn" / "street-detected.jpg")).astype(int)
    assert abs(masked - plain)[-SIZE:][8:-8, 8:-8].mean() > 10  # the mask shines through
    assert run(dyndet, [*words, "--model", "plain", "--masks"]) == 2
    assert "model 'plain' gives boxes but no masks" in capsys.readouterr().err


def test_what_masks_cost_is_measured(server: TritonServer, tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(image(100, seed=number)).save(tmp_path / f"{number}.png")
    record = measure_mask_cost(server.grpc_url, model="fused", images=tmp_path, rounds=2)
    assert (record.images, record.rounds, record.topology) == (2, 2, "fused")
    for cost in (record.easy, record.hard):
        assert 0 < cost.ratio_low <= cost.ratio <= cost.ratio_high
        assert ROWS * 784 <= cost.with_bytes - cost.without_bytes < ROWS * 784 + 100
    assert record.paste_ms is not None and record.paste_ms > 0
    with pytest.raises(NoMasksError):
        measure_mask_cost(server.grpc_url, model="plain", images=tmp_path)


def test_the_page_that_tries_a_detector_gets_masks_in_pixels_of_the_picture(server: TritonServer) -> None:
    pixels = np.asarray(Image.fromarray(image(100, blue=200)).resize((90, 40)))

    async def ask() -> Answers:
        asker = Asker(make=maker([server.grpc_url], "fused"))
        try:
            return await asker.ask(pixels)
        finally:
            await asker.close()

    answers = asyncio.run(ask())
    with Detector(server.grpc_url, "fused", masks=True) as detector:
        for found, threshold in ((answers.easy, 1.0), (answers.hard, 0.0)):
            assert found == detector.detect(pixels, threshold=threshold, min_score=0.05)
            assert found.masks is not None and found.masks.image_size == (90, 40)


def test_the_pictures_of_a_sweep_show_masks(server: TritonServer, tmp_path: Path) -> None:
    """Both detectors find the same object; only one of them has masks."""
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        Image.fromarray(image(250, blue=200, seed=number)).save(file)
    drawn = {}
    for model in ("bls", "plain"):
        with Served(server.grpc_url, model, metrics_url=server.metrics_url) as served:
            shown = make_gallery(served, files, np.array([0.1, 0.5, 0.9]), tmp_path / model, middle=0.5)
        drawn[model] = np.asarray(Image.open(tmp_path / model / shown[0].easy_file)).astype(int)
    assert abs(drawn["bls"] - drawn["plain"])[8:-8, 8:-8].mean() > 10


def test_a_build_with_masks_is_probed_with_them(server: TritonServer) -> None:
    for model in ("bls", "plain"):
        assert probe(server.grpc_url, model, metrics_url=server.metrics_url) > 0
