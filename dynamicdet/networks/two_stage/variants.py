"""How a two-stage network may differ from its architecture's entry, as text for the header of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from dynamicdet.networks.two_stage.architectures import TWO_STAGE_ARCHITECTURES, TwoStageModel

_VALUES: dict[str, tuple[Any, ...]] = {
    "shared_heads": (True, False),
    "aligned": (True, False),
    "anchor_rule": ("exact", "whole"),
}


def variant_text(spec: TwoStageModel) -> str | None:
    """What differs from the entry of this name; None if nothing does."""
    entry = TWO_STAGE_ARCHITECTURES.get(spec.name, spec)
    other = {name: getattr(spec, name) for name in _VALUES if getattr(spec, name) != getattr(entry, name)}
    return json.dumps(other, sort_keys=True) if other else None


def with_variant(spec: TwoStageModel, text: str) -> TwoStageModel:
    """The network that `variant_text` described. Raises ValueError for another text."""
    content: Any = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not the entries of a variant")
    for name, value in content.items():
        if not any(value is known or (isinstance(value, str) and value == known) for known in _VALUES.get(name, ())):
            raise ValueError("an entry that no variant has")
    return replace(spec, **content)
