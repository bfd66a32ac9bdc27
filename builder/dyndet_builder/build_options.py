"""What can be chosen for a build."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load
from dyndet_builder.bundle.export import PARITY_IMAGES
from dyndet_builder.bundle.graphs import Exporter
from dyndet_builder.bundle.manifest import Precision
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.config import Topology
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.server.remote import RemoteServer

_OWN = ("name", "topology", "warmup_image")
"""options of a rendering that a build sets"""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build; what is not asked for keeps the defaults of the single steps.

    Raises InputError where the rendering sets what a build sets: name, topology and the picture that warms the stages.
    """

    name: str = "dyndet"
    precision: Precision = "fp32"
    architecture: str | None = None
    """of a published checkpoint; None: the file says it"""
    max_detections: int = 100
    exporter: Exporter | None = None
    """None: torch's current one, and its older one where that fails"""
    parity_images: int = PARITY_IMAGES
    """pictures at most that prove the graphs equal to the network"""
    topology: Topology | Literal["auto"] = "auto"
    """`auto`: measure both and take the faster where `measures_topology`, else `bls`"""
    rendering: RenderOptions = field(default_factory=RenderOptions)
    load: Load = field(default_factory=Load)
    effort: Effort = field(default_factory=Effort)
    remote: RemoteServer | None = None
    """a running server to put the repository on and to calibrate, instead of the embedded one"""
    fresh: bool = False
    """do every step again, also those whose inputs are unchanged"""

    def __post_init__(self) -> None:
        defaults = {option.name: option.default for option in fields(RenderOptions)}
        for option in _OWN:
            if (value := getattr(self.rendering, option)) != defaults[option]:
                raise InputError(f"a build sets the {option} of its rendering itself, so it cannot be {str(value)!r}")

    @property
    def measures_topology(self) -> bool:
        """Whether both topologies are measured.

        That happens on the embedded server, which has no GPU and whose speed says nothing about another server's.
        """
        can_be_fused = BACKENDS[self.rendering.backend].fused and not self.rendering.gpus
        return self.topology == "auto" and self.remote is None and can_be_fused

    def rendering_with(self, images: Path, *, engines: Path) -> RenderOptions:
        """The whole rendering: `images` warm the stages; `engines` is where TensorRT's are, unless they were given."""
        rendering = replace(
            self.rendering,
            name=self.name,
            topology="bls" if self.topology == "auto" else self.topology,
            warmup_image=images,
        )
        if BACKENDS[rendering.backend].needs_plan and rendering.engines is None:
            return replace(rendering, engines=engines)
        return rendering
