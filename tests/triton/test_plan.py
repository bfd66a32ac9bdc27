"""The queueing estimate of `dyndet deploy plan` against what a sweep measures on the real server."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from dyndet_builder.deployment.plan import plan
from dyndet_builder.deployment.plan_check import check_against, typical_error
from dyndet_builder.deployment.plan_replica import replica_of_sweep
from tests.support.sweeps import Swept


@pytest.mark.timing
def test_the_estimate_is_near_what_a_sweep_measures(swept: Swept, sweep_again: Callable[[], Swept]) -> None:
    """The bounds are wide: client and server share two cores, so that a cell scatters by itself.

    The estimate takes single requests from the beginning of a sweep, and is compared with loads at its end. A machine
    that got much slower in between says nothing about it, so that it is swept again, up to two times.
    """
    for _ in range(2):
        if _is_near(_errors(swept)):
            break
        swept = sweep_again()
    errors = _errors(swept)
    assert _is_near(errors), errors
    # At a rate that would keep five replicas busy all the time, whatever the speed of this machine.
    replica = replica_of_sweep(swept.record, 0.5)
    promise = f"p95:{10 * swept.record.routes['hard'].mean_ms:.3f}ms"
    found = plan(swept.folder, request_rate=5e3 / replica.busy_ms, promise=promise, hard_share=0.5)
    assert 5 < found.replicas <= 50
    assert found.correction >= 1


def _errors(swept: Swept) -> tuple[float, float]:
    """Typical errors of the mean in closed and in open loops."""
    means = [check for check in check_against(swept.record) if check.statistic == "mean"]
    if len(means) < len(swept.record.cells):  # a rate was above what the machine could take just then
        return inf, inf
    closed, opened = ([check for check in means if check.open == is_open] for is_open in (False, True))
    return typical_error(closed), typical_error(opened)


def _is_near(errors: tuple[float, float]) -> bool:
    return errors[0] < 0.25 and errors[1] < 0.5
