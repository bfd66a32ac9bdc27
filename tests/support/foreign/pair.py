"""A pair of detectors of others for experiments: `python -m tests.support.foreign.pair FOLDER [--middle]`.

Writes `small.onnx` (the easy route at 160 pixels, a YOLO11 by its form) and `large.onnx` (the hard route at 256
pixels, a YOLOX), each with the `small.yaml` or `large.yaml` that is true of it. `--middle` adds `middle.onnx`: the easy
route at 224 pixels, so that its cost and its accuracy lie between those of the pair.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import yaml

from dynamicdet.networks.network import Route
from dyndet_builder.bundle.spec import DetectorSpec, Family
from tests.support.foreign.recipes import INPUTS, Recipe
from tests.support.foreign.write import write_detector

SAME_RULE: dict[str, tuple[Route, Family, Recipe]] = {
    "small": ("easy", "yolo", INPUTS["plain"]),
    "large": ("hard", "yolo", INPUTS["plain"]),
}
"""both read the same fitted picture"""
TWO_RULES: dict[str, tuple[Route, Family, Recipe]] = {
    "small": ("easy", "yolo", INPUTS["160"]),
    "large": ("hard", "yolox-raw", replace(INPUTS["yolox"], size=(256, 256))),
}
"""two families, two sizes, two rules of fitting"""
MIDDLE: tuple[Route, Family, Recipe] = ("easy", "yolo", replace(INPUTS["plain"], size=(224, 224)))


def write_pair(
    folder: Path, pair: dict[str, tuple[Route, Family, Recipe]] = TWO_RULES, *, middle: bool = False
) -> dict[str, DetectorSpec]:
    """Write NAME.onnx and NAME.yaml of each detector into `folder`; the specs by name."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {**pair, "middle": MIDDLE} if middle else pair
    specs = {}
    for name, (route, family, recipe) in wanted.items():
        specs[name] = write_detector(folder / f"{name}.onnx", route, family, recipe)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(json.loads(specs[name].model_dump_json()), sort_keys=False))
    return specs


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--middle", action="store_true", help="a third detector between the two")
    parser.add_argument("--same-rule", action="store_true", help="both are fitted alike")
    given = parser.parse_args()
    write_pair(given.folder, SAME_RULE if given.same_rule else TWO_RULES, middle=given.middle)


if __name__ == "__main__":
    _main()
