"""Times two bundles of one checkpoint in ONNX Runtime on the CPU, stage by stage and interleaved.

    dyndet export CHECKPOINT -o build/align --target onnxruntime
    dyndet export CHECKPOINT -o build/sample --target tensorrt
    python benchmarks/roi_forms.py build/align build/sample

Both bundles have the same weights; they differ in how features of boxes are read (RoiAlign, or GridSample and an
average). Every round runs every stage of both bundles once, on the features of the same picture.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from dynamicdet.images import read_image
from dynamicdet.pictures import pictures_in, spread
from dyndet_builder.bundle.manifest import STAGES
from dyndet_builder.bundle.runner import BundleRunner
from dyndet_builder.demo_assets import demo_images


def main() -> None:
    """Print the median time of each stage of both bundles, milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs=2, type=Path, metavar="BUNDLE")
    parser.add_argument("--images", type=Path, default=None, help="folder of pictures  [default: the demo's]")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=None, help="of each session  [default: ONNX Runtime's choice]")
    given = parser.parse_args()
    runners = [BundleRunner(bundle, given.threads) for bundle in given.bundles]
    pictures = spread(pictures_in(given.images or demo_images()), given.rounds)
    taken: dict[tuple[int, str], list[float]] = {}
    for number in range(given.rounds + 1):  # the first round warms up
        image = runners[0].bundle.fit(read_image(pictures[number % len(pictures)])).image[None]
        for index, runner in [*enumerate(runners)][:: 1 if number % 2 else -1]:
            tensors = {"image": image}
            for stage in STAGES:
                started = time.perf_counter()
                found = runner.run(stage, tensors)
                if number:
                    taken.setdefault((index, stage), []).append(1000 * (time.perf_counter() - started))
                tensors |= found if stage == "backbone1" else {}
    for index, runner in enumerate(runners):
        settings = runner.bundle.two_stage
        print(f"{given.bundles[index]}, for {'any target' if settings is None else settings.target}")  # noqa: T201
        for stage in STAGES:
            times = taken[index, stage]
            low, high = np.percentile(times, [10, 90])
            print(f"  {stage:10} {statistics.median(times):7.2f} ms  (10 to 90 %: {low:.2f} to {high:.2f})")  # noqa: T201


if __name__ == "__main__":
    main()
