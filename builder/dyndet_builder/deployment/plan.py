"""How many replicas a promise needs at a request rate: a queueing estimate from the measurements of one replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dynamicdet.errors import InputError, TargetOutOfReachError
from dynamicdet.text import distinct
from dyndet_bench.load.record import LoadRecord
from dyndet_bench.measuring.statistic import THROUGHPUT
from dyndet_bench.sweep.record import FILE_NAME as SWEEP_FILE
from dyndet_bench.sweep.record import Sweep, read_sweep
from dyndet_builder.defaults import MARGIN
from dyndet_builder.deployment.plan_accuracy import Accuracies, accuracies_of_sweep
from dyndet_builder.deployment.plan_check import correction_of
from dyndet_builder.deployment.plan_following import Absorbing, absorbing, floor_of
from dyndet_builder.deployment.plan_queue import Queue, Row, fewest
from dyndet_builder.deployment.plan_replica import Replica, replica_of_points, replica_of_sweep
from dyndet_builder.repository.marker import MARKER_FILE
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.targets import parse_target

ASSUMPTIONS = (
    "requests arrive independently of each other (Poisson) at a steady rate, one image each",
    "the load balancer picks a random replica for each request; it does not look for a free one",
    "every replica is as fast as the measured one, and gets the same share of hard images",
    "a replica runs requests in the order of their arrival; the network adds no more latency than in the measurement",
)

FOLLOWING = "the threshold rises until the promise is kept; the images that lose detector 2 are those that gain least"

LEAST_RATE, MOST_RATE = 0.001, 1_000_000
"""requests a second: one in a quarter of an hour, and more than as many replicas as a plan counts can take"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The number of replicas, and the values behind it."""

    source: str
    measured_on: str
    request_rate: float
    promise: str
    limit_ms: float
    """the promise less the margin"""
    margin: float
    hard_share: float
    busy_ms: float
    """mean time that a request keeps a replica busy"""
    correction: float
    """factor on the estimated times, by which the open loops of the sweep exceeded them; at least 1"""
    replicas: int
    gpus: int | None
    """of all replicas; None if the number in one replica is unknown"""
    rows: tuple[Row, ...]
    absorbing: Absorbing | None
    """what replicas do whose thresholds follow the load; None: these do not"""
    assumptions: tuple[str, ...]


def plan(
    source: Path,
    *,
    request_rate: float,
    promise: str,
    model: str | None = None,
    operating_point: str | None = None,
    hard_share: float | None = None,
    margin: float = MARGIN,
    hard_share_floor: float | None = None,
    ap_floor: float | None = None,
    accuracies: Accuracies | None = None,
    measured: LoadRecord | None = None,
) -> Plan:
    """The fewest replicas that keep a promise, such as `p95:20ms`, with a margin, at so many requests a second.

    `source` is a calibrated model repository or a sweep (its folder or file); a sweep also shows how requests overlap.
    `model` names the detector if the repository holds several. `hard_share` overrides that of the operating point.

    If the operating point follows the load, or a floor is given, the plan also says how many replicas refuse nothing at
    this rate, and how many keep the hard share (`hard_share_floor`, by default that of the operating point) or the
    average precision (`ap_floor`, percent) from falling below a floor. `accuracies` are AP over hard share; those of a
    sweep are used by default. `measured`, a record of `dyndet bench load`, is compared with the estimate.

    Raises InputError for a rate that is not from `LEAST_RATE` to `MOST_RATE` and for a source without measurements,
    TargetOutOfReachError if even idle replicas break the promise.
    """
    if not LEAST_RATE <= request_rate <= MOST_RATE:  # true for NaN
        raise InputError(
            f"the request rate must be from {LEAST_RATE} to {MOST_RATE:,} requests a second, not {request_rate:g}"
        )
    if not 0 <= margin < 1:
        raise InputError(f"the margin must be from 0 to below 1, not {margin}")
    target = parse_target(promise)
    if target.of_range or target.statistic == THROUGHPUT:
        raise InputError(f"promise {promise!r} is not a latency; give one such as p95:20ms or 12ms")
    given = _read(source, model, operating_point, hard_share)
    floor, asked = None, (hard_share_floor, ap_floor, accuracies, measured)
    accuracies = accuracies or given.accuracies
    if given.follows or any(one is not None for one in asked):
        floor = floor_of(given.replica.hard_share, hard_share_floor, ap_floor, accuracies)
    correction = 1.0 if given.sweep is None else correction_of(given.sweep, target.statistic)
    queue = Queue(given.replica, request_rate, target.statistic, correction)
    limit = target.value * (1 - margin)
    idle = queue.idle_ms()
    if idle > limit:
        takes, allowed = distinct(idle, limit)
        raise TargetOutOfReachError(
            f"even idle replicas take {takes} ms ({target.statistic.name}), and {target.text} less {margin:.0%} is "
            f"{allowed} ms: more replicas do not help; promise at least {idle / (1 - margin):.4g} ms, or send fewer "
            "images to detector 2"
        )
    replicas = fewest(queue, limit)
    absorbed = None
    if floor is not None:
        absorbed = absorbing(queue, limit, floor=floor, ap_floor=ap_floor, accuracies=accuracies, measured=measured)
    shown = range(max(queue.least, replicas - 2), replicas + 2)
    rows = [queue.row(number, limit) for number in shown]
    return Plan(
        source=str(source),
        measured_on=given.measured_on,
        request_rate=request_rate,
        promise=target.text,
        limit_ms=limit,
        margin=margin,
        hard_share=given.replica.hard_share,
        busy_ms=given.replica.busy_ms,
        correction=correction,
        replicas=replicas,
        gpus=None if given.gpus is None else given.gpus * replicas,
        rows=tuple(rows),
        absorbing=absorbed,
        assumptions=(*ASSUMPTIONS, given.assumed, *(() if absorbed is None else (FOLLOWING,))),
    )


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The values that a source gives."""

    replica: Replica
    gpus: int | None
    """of one replica"""
    machine: Mapping[str, str]
    assumed: str
    """what must be assumed for this kind of source"""
    sweep: Sweep | None = None
    follows: bool = False
    """whether the operating point follows the load"""

    @property
    def accuracies(self) -> Accuracies | None:
        """AP over hard share, if the source knows it."""
        return None if self.sweep is None else accuracies_of_sweep(self.sweep)

    @property
    def measured_on(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.machine.items())


def _read(source: Path, model: str | None, operating_point: str | None, hard_share: float | None) -> _Given:
    if (source / MARKER_FILE).is_file():
        deployed = read_rendered(source, model=model)
        name = operating_point or deployed.points.default
        replica = replica_of_points(deployed.points, name, deployed.points_file)
        assert deployed.points.evidence is not None
        given = _Given(
            replica=replica,
            gpus=len(deployed.gpus),
            machine=deployed.points.evidence.machine,
            follows=deployed.point(name).followed is not None,
            assumed="a calibration does not show how requests overlap: each is assumed to occupy its replica alone",
        )
    elif source.is_file() or (source / SWEEP_FILE).is_file():
        sweep = read_sweep(source)
        given = _Given(
            replica=replica_of_sweep(sweep, _hard_share_of(sweep, operating_point, hard_share)),
            gpus=None,
            machine=sweep.circumstances.machine,
            assumed="requests overlap as in the closed loop with the highest throughput",
            sweep=sweep,
        )
    else:
        raise InputError(f"{source} is neither a model repository (no {MARKER_FILE}) nor a sweep (no {SWEEP_FILE})")
    return given if hard_share is None else replace(given, replica=given.replica.with_hard_share(hard_share))


def _hard_share_of(sweep: Sweep, operating_point: str | None, hard_share: float | None) -> float:
    if hard_share is not None:
        return hard_share
    known = {point.name: point.hard_share for point in sweep.points if point.hard_share is not None}
    name = operating_point or next(iter(known), None)
    if name is None or name not in known:
        names = ", ".join(known) or "none"
        raise InputError(f"the sweep has no operating point {name or 'at all'} (it has {names}); give --hard-share")
    return known[name]
