"""The demo: build the included model for a target, serve it, and show what each detector finds in a few images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynamicdet.aliases import Progress
from dynamicdet.datasets.truth import read_objects
from dyndet_builder.build import BuildOptions, BuildResult, build
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.demo_assets import demo_checkpoint, demo_images
from dyndet_builder.demo_pictures import Showing, show_pictures
from dyndet_builder.demo_sheet import write_sheet
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.targets import Target
from dyndet_client import Detector

SHEET_NAME = "contact-sheet.png"
TOLERANCE = 0.05
"""more than the 3 % of `dyndet-build`, because a newcomer's machine runs other programs too"""


def demo(
    output: Path, *, targets: Sequence[Target], progress: Progress, accept_ill_conditioned: bool = False
) -> tuple[BuildResult, Showing]:
    """Build the demo model in `output` for some targets, serve it, and draw `output`/contact-sheet.png.

    Raises what `build` raises.
    """
    images = demo_images()
    options = BuildOptions(effort=Effort(tolerance=TOLERANCE, accept_ill_conditioned=accept_ill_conditioned))
    result = build(demo_checkpoint(), output, images=images, targets=targets, options=options, progress=progress)
    default = next(iter(result.points.values()))
    with (
        TritonServer(result.repository, ServerOptions(log_file=output / "server.log")) as server,
        Detector(server.grpc_url, model=result.model) as detector,
    ):
        showing = show_pictures(detector, read_objects(images.parent), threshold=default.threshold, progress=progress)
    write_sheet(showing, output / SHEET_NAME)
    return result, showing
