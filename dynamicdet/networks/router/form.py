"""What a router reads and gives; without torch, so that commands can name it in their help."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

RouterInputs = Literal["mean", "rich"]
ROUTER_INPUTS: tuple[RouterInputs, ...] = get_args(RouterInputs)


@dataclass(frozen=True, kw_only=True)
class RouterForm:
    """What a router reads, and how it gives difficulties. Raises ValueError for a form that there is not."""

    inputs: RouterInputs = "mean"
    """`mean`: the paper's, the mean of each channel; `rich`: also its maximum and its root mean square"""
    ranked: bool = False
    """whether difficulties are ranks, spread evenly over 0..1, or the paper's sigmoid"""

    def __post_init__(self) -> None:
        if self.inputs not in ROUTER_INPUTS or type(self.ranked) is not bool:
            raise ValueError("not a form of a router")

    def as_text(self) -> str:
        """For the header of a checkpoint."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> RouterForm:
        """What `as_text` wrote. Raises ValueError for another text."""
        content: Any = json.loads(text)
        if not isinstance(content, dict) or content.keys() != {"inputs", "ranked"}:
            raise ValueError("other entries than expected")
        return cls(**content)


PUBLISHED_ROUTER = RouterForm()
"""that of the paper's checkpoints"""
