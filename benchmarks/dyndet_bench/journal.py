"""Keeps every round of a calibration on disk as soon as it was measured, so that an interruption loses nothing.

A search decides by what it measured and by nothing else. Given the same rounds it asks for the same thresholds again: a
calibration that is started anew replays what is on record and goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.errors import InputError
from dyndet_bench.measure import Run
from dyndet_bench.served import RouteCounts, ServerTimes

Wanted = tuple[tuple[float | None, bool], ...]
"""thresholds of a round, each with whether its single latencies are wanted"""
Round = list[Run]
"""one run of each threshold, in their order"""


class Journal:
    """The rounds on record for one server, workload and load. Each is given out once.

    Raises InputError where the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object], *, newest_s: float, fresh: bool = False) -> None:
        """`identity` is everything that a measurement depends on; rounds older than `newest_s` seconds do not count."""
        key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.path = folder / f"{key}.jsonl"
        self.replayed = 0
        self._known: dict[Wanted, deque[Round]] = defaultdict(deque)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write("\n")  # ends what was cut off in the middle of writing
        except OSError as error:
            raise InputError(f"measurements cannot be kept in {folder} ({error.strerror})") from error
        if not fresh:
            self._read(time.time() - newest_s)

    def take(self, wanted: Wanted) -> Round | None:
        """The oldest round on record of just these thresholds that was not taken yet."""
        rounds = self._known[wanted]
        if not rounds:
            return None
        self.replayed += 1
        return rounds.popleft()

    def add(self, runs: Round) -> None:
        """Put a round on record."""
        line = json.dumps({"time": time.time(), "runs": [_plain(run) for run in runs]})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def _read(self, since: float) -> None:
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                content = json.loads(line)
                if content["time"] < since:
                    continue
                runs = [_run(one) for one in content["runs"]]
            except (ValueError, KeyError, TypeError):
                continue
            self._known[tuple((run.threshold, run.latencies_ms is not None) for run in runs)].append(runs)


def _plain(run: Run) -> dict[str, Any]:
    latencies = None if run.latencies_ms is None else np.round(run.latencies_ms, 4).tolist()
    return {**asdict(run), "latencies_ms": latencies}


def _run(content: Mapping[str, Any]) -> Run:
    latencies = content["latencies_ms"]
    return Run(
        **{
            **content,
            "percentiles_ms": {int(percent): float(value) for percent, value in content["percentiles_ms"].items()},
            "counts": RouteCounts(**content["counts"]),
            "times": ServerTimes(**content["times"]),
            "latencies_ms": None if latencies is None else np.array(latencies, np.float64),
        }
    )
