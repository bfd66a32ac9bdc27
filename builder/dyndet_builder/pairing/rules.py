"""Free rules for which pictures are hard: from detector 1's answers alone, nothing is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dynamicdet.aliases import FloatArray
from dyndet_builder.pairing.answers import Answers

RULES: Mapping[str, Callable[[Answers], FloatArray]] = {}
"""by name: answers to (N,), larger is harder"""
