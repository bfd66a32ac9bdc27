"""Repeats measurements in rounds, so that a machine that grows slower or faster does so for all that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dyndet_bench.measure import Run, measure
from dyndet_bench.perf_analyzer import PerfAnalyzer
from dyndet_bench.served import Served
from dyndet_bench.workload import Workload


class Rounds:
    """Measures several thresholds in turn on one server with one set of pictures at one load."""

    def __init__(
        self,
        served: Served,
        perf_analyzer: PerfAnalyzer,
        workload: Workload,
        *,
        concurrency: int = 1,
        requests: int | None = None,
    ) -> None:
        self.workload = workload
        self._served = served
        self._perf_analyzer = perf_analyzer
        self._concurrency = concurrency
        self._requests = requests

    def measure(
        self, thresholds: Sequence[float | None], rounds: int, progress: Callable[[int], None] | None = None
    ) -> list[list[Run]]:
        """`rounds` runs of each threshold, in the order of `thresholds`. Every other round goes backwards.

        `progress` is told how many runs are done.
        """
        runs: list[list[Run]] = [[] for _ in thresholds]
        done = 0
        for number in range(rounds):
            order = list(range(len(thresholds)))
            for index in order if number % 2 == 0 else order[::-1]:
                runs[index].append(
                    measure(
                        self._served,
                        self._perf_analyzer,
                        self.workload,
                        threshold=thresholds[index],
                        requests=self._requests,
                        concurrency=self._concurrency,
                    )
                )
                done += 1
                if progress is not None:
                    progress(done)
        return runs


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the median of a few values, from their median absolute deviation; infinite below two values.

    1.4826 turns the deviation into a standard deviation for normal noise, 1.2533 the mean's error into the median's.
    """
    if len(values) < 2:
        return float("inf")
    array = np.asarray(values, np.float64)
    deviation = 1.4826 * float(np.median(np.abs(array - np.median(array))))
    return 1.2533 * deviation / float(np.sqrt(array.size))
