"""The whole line on a user's own pictures, typed as a user types it; `make test-all` runs it, in about ten minutes.

docs/training.md shows the same walk with its output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamicdet.images import read_image
from dynamicdet.letterbox import letterbox
from dynamicdet.pictures import pictures_in
from tests.support.own_scenes import CLASSES, write_own_scenes
from tests.support.programs.processes import started

pytestmark = [pytest.mark.whole_line, pytest.mark.timeout(3600)]

_DYNDET = str(Path(sys.executable).parent / "dyndet")
_NO_GAP = 9
"""exit status of commands that find that detector 2 does not help; this walk does not depend on it"""
_APART = 0.2
"""AP by which ways to evaluate the same detector may differ"""


def test_own_pictures_become_a_served_detector_that_every_way_to_evaluate_agrees_on(
    tmp_path: Path, demo_checkpoint: Path
) -> None:
    data = write_own_scenes(tmp_path / "own")
    train, val = (str(data / split) for split in ("train", "val"))
    checkpoint, built = str(tmp_path / "own.safetensors"), tmp_path / "built"

    said = _typed("data", "check", train)
    assert "240 images" in said and "of 3 classes" in said
    few = ["--epochs", "24", "--final-epochs", "2", "--size", "128", "--batch", "8"]
    _typed("train", "detectors", train, "--start", str(demo_checkpoint), "-o", checkpoint, *few)
    assert "correlation" in _typed("train", "router", checkpoint, train, "--examples", "480")

    images = str(data / "val" / "images")
    careful = ["--tolerance", "0.2", "--time-budget", "1"]  # other programs may be running
    building = ["build", "--target-latency", "50%", "--checkpoint", checkpoint, "--images", images, "-o", str(built)]
    point = json.loads(_typed(*building, *careful, "--json"))["operating_points"]["50%"]
    assert abs(point["error"]) <= 0.2 and 0 < point["easy_share"] < 1

    by_checkpoint = _precisions(checkpoint, "--data", val)
    assert by_checkpoint["hard"] > 10, "three drawn shapes were not learned"
    assert _precisions(str(built / "bundle"), "--data", val) == pytest.approx(by_checkpoint, abs=_APART)
    with _served(built / "model_repository") as url:
        assert _precisions("--url", url, "--data", val) == pytest.approx(by_checkpoint, abs=_APART)
        for route, threshold in (("easy", "1"), ("hard", "0")):
            detecting = ["detect", images, "--url", url, "--threshold", threshold, "--min-score", "0.001", "--json"]
            found = [json.loads(line) for line in _typed(*detecting).splitlines()]
            assert {one["route"] for one in found} == {route}
            independent = _independent_precision(Path(val) / "annotations.json", found)
            assert independent == pytest.approx(by_checkpoint[route], abs=_APART)
        _detects_in_files_and_in_a_video(url, data / "val" / "images", tmp_path)

    int8 = tmp_path / "int8"
    quantized = json.loads(_typed("quantize", str(built / "bundle"), str(int8), "--images", images, "--data", val,
                                  "--calibration-images", "24", "--compared-images", "12", "--json"))  # fmt: skip
    assert quantized["class_names"] == _names_in_order()
    cost = quantized["quantization"]
    assert cost["ap_before"]["hard"] == pytest.approx(by_checkpoint["hard"], abs=_APART)
    assert abs(cost["ap_after"]["hard"] - cost["ap_before"]["hard"]) < 5


def _detects_in_files_and_in_a_video(url: str, images: Path, folder: Path) -> None:
    """Annotated copies of portrait, grey and 16-bit pictures, and of a video made of such pictures."""
    chosen = pictures_in(images)[:12]
    clip = _write_clip(folder / "clip.mp4", [letterbox(read_image(file), 320).image for file in chosen])
    said = _typed("detect", *map(str, chosen), str(clip), "--url", url, "--output", str(folder / "detections"))
    assert any(name in said for name in CLASSES.values())
    written = sorted(path.name for path in (folder / "detections").iterdir())
    assert written == sorted([*(f"{file.stem}-detected.jpg" for file in chosen), "clip-detected.mp4"])
    with av.open(str(folder / "detections" / "clip-detected.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == len(chosen)


def _typed(*words: str) -> str:
    """What a command prints; it may find that detector 2 does not help."""
    environment = dict(os.environ)
    if words[0] == "train":  # threads that wait for each other take ten times as long if anything else runs
        environment["OMP_NUM_THREADS"] = "1"
    answer = subprocess.run([_DYNDET, *words], capture_output=True, text=True, check=False, env=environment)
    sys.stdout.write(f"$ dyndet {' '.join(words)}\n{answer.stdout[-3000:]}{answer.stderr[-3000:]}\n")  # for failures
    assert answer.returncode in (0, _NO_GAP)
    return answer.stdout


def _precisions(*words: str) -> dict[str, float]:
    """AP of both routes, by `dyndet evaluate`."""
    report = json.loads(_typed("evaluate", *words, "--no-cache", "--json"))
    return {route: report["ap"][route]["ap"] for route in ("easy", "hard")}


def _independent_precision(annotations: Path, found: list[dict[str, Any]]) -> float:
    """AP of what `dyndet detect --json` printed, by pycocotools alone: files and classes are found by their names."""
    truth = COCO(str(annotations))
    images = {entry["file_name"]: entry["id"] for entry in truth.loadImgs(truth.getImgIds())}
    categories = {entry["name"]: entry["id"] for entry in truth.loadCats(truth.getCatIds())}
    assert len(found) == len(images)
    rows = []
    for one in found:
        for hit in one["detections"]:
            left, top, right, bottom = hit["box"]
            box = [left, top, right - left, bottom - top]
            rows.append({"image_id": images[Path(one["image"]).name], "category_id": categories[hit["name"]],
                         "bbox": box, "score": hit["score"]})  # fmt: skip
    scoring = COCOeval(truth, truth.loadRes(rows), "bbox")
    scoring.evaluate()
    scoring.accumulate()
    scoring.summarize()
    return float(100 * scoring.stats[0])


def _names_in_order() -> list[str]:
    """Class names as training numbers them: in the order of the category ids."""
    return [CLASSES[number] for number in sorted(CLASSES)]


def _write_clip(path: Path, frames: list[np.ndarray[Any, Any]]) -> Path:
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=5)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())
    return path


@contextmanager
def _served(repository: Path) -> Iterator[str]:
    """The gRPC address of `dyndet serve`, on ports that are free."""
    with started([_DYNDET, "serve", str(repository)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(line.split()[1] for line in process.stdout if line.split()[:1] == ["gRPC"])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
