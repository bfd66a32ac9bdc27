"""The options of a build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load
from dyndet_builder.bundle.manifest import Precision
from dyndet_builder.bundle.parts import Target
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.defaults import PARITY_IMAGES
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.config import Topology
from dyndet_builder.repository.options import RenderOptions

if TYPE_CHECKING:
    from dyndet_builder.bundle.graphs import Exporter
    from dyndet_builder.server.remote import Candidate, RemoteServer

_OWN = ("name", "topology", "warmup_image")
"""options of the rendering that a build sets itself"""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build; the defaults are those of the single steps.

    Raises InputError if the rendering sets an option that the build sets (name, topology and the image that warms the
    stages), or if the load has larger batches than the rendering.
    """

    name: str = "dyndet"
    precision: Precision = "fp32"
    architecture: str | None = None
    """of a published checkpoint; None: the file names it"""
    max_detections: int | None = None
    """None: 100, or what the architecture of a two-stage detector says"""
    exporter: Exporter | None = None
    """None: torch's current one, or its older one if the current one fails"""
    parity_images: int = PARITY_IMAGES
    """the most images that prove that the graphs match the network"""
    topology: Topology | Literal["auto"] = "auto"
    """`auto`: measure both and use the faster one if `measures_topology`, otherwise `bls`"""
    rendering: RenderOptions = field(default_factory=RenderOptions)
    load: Load = field(default_factory=Load)
    effort: Effort = field(default_factory=Effort)
    remote: RemoteServer | None = None
    """a running server that gets the build and calibrates it, instead of the embedded one"""
    before_switch: Callable[[Candidate], None] | None = None
    """called with the calibrated build beside the running one of that server; an error keeps the running one in use"""
    fresh: bool = False
    """do every step again, even if its inputs are unchanged"""

    def __post_init__(self) -> None:
        defaults = {option.name: option.default for option in fields(RenderOptions)}
        for option in _OWN:
            if (value := getattr(self.rendering, option)) != defaults[option]:
                raise InputError(f"a build sets the {option} of its rendering itself, so it cannot be {str(value)!r}")
        if self.load.batch > (most := self.rendering.max_batch):
            raise InputError(
                f"the detector takes batches of at most {most}, so it cannot be measured with {self.load.batch}"
            )

    @property
    def target(self) -> Target:
        """What the graphs of a two-stage detector are exported for."""
        return BACKENDS[self.rendering.backend].targets[0]

    @property
    def measures_topology(self) -> bool:
        """Whether both topologies are measured.

        They are measured on the embedded server, which has no GPU; its speed says nothing about another server.
        """
        can_be_fused = BACKENDS[self.rendering.backend].fused and not self.rendering.gpus
        return self.topology == "auto" and self.remote is None and can_be_fused

    def rendering_with(self, images: Path, *, engines: Path) -> RenderOptions:
        """The whole rendering: `images` warm the stages; `engines` is the folder of engines, unless one is given."""
        rendering = replace(
            self.rendering,
            name=self.name,
            topology="bls" if self.topology == "auto" else self.topology,
            warmup_image=images,
        )
        if BACKENDS[rendering.backend].needs_plan and rendering.engines is None:
            return replace(rendering, engines=engines)
        return rendering
