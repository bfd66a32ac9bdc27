"""The demo: build the included model for a target, serve it and detect objects in a few images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.aliases import Progress
from dynamicdet.files import whole_file
from dynamicdet.images import read_image
from dynamicdet.pictures import pictures_in, spread
from dyndet_builder.build import BuildOptions, BuildResult, build
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.demo_assets import demo_checkpoint, demo_images
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.targets import Target
from dyndet_client import Detections, Detector

PICTURES = 6
TOLERANCE = 0.05
"""more than the 3 % of `dyndet-build`, because a newcomer's machine runs other programs too"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One image, its detections, and the path of its annotated copy."""

    picture: Path
    detections: Detections
    saved: Path


def demo(
    output: Path, *, targets: Sequence[Target], progress: Progress, accept_ill_conditioned: bool = False
) -> tuple[BuildResult, list[Answer]]:
    """Build the demo model in `output` for some targets, serve it, and save annotated images in `output`/detections.

    Raises what `build` raises.
    """
    images = demo_images()
    options = BuildOptions(effort=Effort(tolerance=TOLERANCE, accept_ill_conditioned=accept_ill_conditioned))
    result = build(demo_checkpoint(), output, images=images, targets=targets, options=options, progress=progress)
    chosen = spread(pictures_in(images), PICTURES)
    folder = output / "detections"
    folder.mkdir(exist_ok=True)
    answers = []
    progress("detect in images", 0, len(chosen))
    with (
        TritonServer(result.repository, ServerOptions(log_file=output / "server.log")) as server,
        Detector(server.grpc_url, model=result.model) as detector,
    ):
        for number, picture in enumerate(chosen, start=1):
            found = detector.detect(picture, min_score=0.3)
            saved = folder / f"{picture.stem}-detected.png"
            with whole_file(saved, durable=False) as temporary:
                found.draw(read_image(picture)).save(temporary, format="PNG")
            answers.append(Answer(picture=picture, detections=found, saved=saved))
            progress("detect in images", number, len(chosen))
    return result, answers
