"""How many damaged files a property is tried with: always the same ones, and many more where new ones are drawn."""

from __future__ import annotations

import os

SEEDS = 100 if "DYNDET_EXPLORE" in os.environ else 40
"""that hypothesis draws"""
EACH = 10
"""files for each seed, because to draw takes longer than most cases"""
CASES = SEEDS * EACH
