"""Detects objects with one ONNX file of `dyndet compose`, and nothing but onnxruntime and numpy.

    dyndet compose build/bundle -o detector.onnx
    python one_file.py detector.onnx picture.ppm
    python one_file.py detector.onnx picture.npy --threshold 0.2

A picture is a binary PPM file, or an array uint8 (H, W, 3), RGB, in a .npy file. Other formats need a decoder, such as
Pillow: `numpy.asarray(Image.open(path).convert("RGB"))`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def read_picture(path: Path) -> np.ndarray[Any, Any]:
    """Pixels uint8 (H, W, 3), RGB."""
    if path.suffix == ".npy":
        return np.load(path)
    kind, width, height, largest, pixels = path.read_bytes().split(maxsplit=4)
    if kind != b"P6" or largest != b"255":
        raise ValueError("it is not a binary PPM file with 255 levels")
    return np.frombuffer(pixels, np.uint8).reshape(int(height), int(width), 3)


def fit(picture: np.ndarray[Any, Any], rule: dict[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The network's input (H, W, 3), and the numbers that map boxes back: x and y scale, left and top border.

    The resizing is linear without antialiasing. dyndet's client averages first where a picture is reduced by 2 or more.
    """
    height, width = picture.shape[:2]
    scale_y, scale_x = rule["height"] / height, rule["width"] / width
    if rule["resize"] == "letterbox":
        scale_y = scale_x = min(scale_y, scale_x)
    rows, columns = max(1, round(height * scale_y)), max(1, round(width * scale_x))
    top, left = rule["height"] - rows, rule["width"] - columns
    top, left = (top // 2, left // 2) if rule["place"] == "centre" else (0, 0)
    fitted = np.full((rule["height"], rule["width"], 3), rule["pad"], np.uint8)
    resized = _along(_along(picture.astype(np.float32), rows, 0), columns, 1)
    fitted[top : top + rows, left : left + columns] = np.rint(resized).astype(np.uint8)
    return fitted, np.array([columns / width, rows / height, left, top])


def _along(pixels: np.ndarray[Any, Any], size: int, axis: int) -> np.ndarray[Any, Any]:
    """Resize along one axis, pixel centres to pixel centres."""
    there = np.clip((np.arange(size) + 0.5) * pixels.shape[axis] / size - 0.5, 0, pixels.shape[axis] - 1)
    below = np.floor(there).astype(int)
    share = (there - below).reshape([-1 if axis == index else 1 for index in range(3)])
    above = np.minimum(below + 1, pixels.shape[axis] - 1)
    return pixels.take(below, axis) * (1 - share) + pixels.take(above, axis) * share


def main() -> None:
    """Print one object per line, and the route as the last line."""
    parser = argparse.ArgumentParser(description="Detect objects with one ONNX file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--threshold", type=float, help="images with a larger difficulty take the hard route")
    parser.add_argument("--min-score", type=float, default=0.25)
    given = parser.parse_args()

    session = onnxruntime.InferenceSession(given.file, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    if "dyndet_fit" not in facts:
        raise SystemExit(f"{given.file} is not a file that `dyndet compose` wrote")
    names = json.loads(facts["dyndet_class_names"])
    try:
        picture = read_picture(given.picture)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{given.picture} cannot be read: {error}") from error
    image, (scale_x, scale_y, left, top) = fit(picture, json.loads(facts["dyndet_fit"]))

    feed = {"image": image[None]}
    if given.threshold is not None:  # otherwise the one in the file
        feed["threshold"] = np.array([[given.threshold]], np.float32)
    outputs = [output.name for output in session.get_outputs()]
    answer = dict(zip(outputs, session.run(outputs, feed), strict=True))

    for row in range(answer["num_detections"].item()):
        if answer["scores"][0, row] >= given.min_score:
            box = (answer["boxes"][0, row] - [left, top, left, top]) / [scale_x, scale_y, scale_x, scale_y]
            corners = " ".join(f"{corner:.1f}" for corner in box)
            print(f"{names[answer['classes'][0, row]]} {answer['scores'][0, row]:.2f} {corners}")
    route = "hard" if answer["route"].item() == 2 else "easy"
    print(f"{route}, difficulty {answer['difficulty'].item():.3f}")


if __name__ == "__main__":
    main()
