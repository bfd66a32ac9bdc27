"""How many replicas a promise needs at a request rate: a queueing estimate from the measurements of one replica."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError, TargetOutOfReachError
from dynamicdet.text import distinct
from dyndet_bench.measuring.statistic import THROUGHPUT, Statistic
from dyndet_bench.sweep.record import FILE_NAME as SWEEP_FILE
from dyndet_bench.sweep.record import Sweep, read_sweep
from dyndet_builder.defaults import MARGIN
from dyndet_builder.deployment.plan_check import correction_of, of_latencies
from dyndet_builder.deployment.plan_replica import Replica, replica_of_points, replica_of_sweep
from dyndet_builder.repository.marker import MARKER_FILE
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.targets import parse_target

_MOST_REPLICAS = 10_000

ASSUMPTIONS = (
    "requests arrive independently of each other (Poisson) at a steady rate, one image each",
    "the load balancer picks a random replica for each request; it does not look for a free one",
    "every replica is as fast as the measured one, and gets the same share of hard images",
    "a replica runs requests in the order of their arrival; the network adds no more latency than in the measurement",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The expected latencies of a number of replicas, milliseconds."""

    replicas: int
    utilisation: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    promised_ms: float
    """the statistic of the promise"""
    holds: bool
    """whether it is below the promise by the margin"""


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
) -> Plan:
    """The fewest replicas that keep a promise, such as `p95:20ms`, with a margin, at so many requests a second.

    `source` is a calibrated model repository or a sweep (its folder or file); a sweep also shows how requests overlap.
    `model` names the detector if the repository holds several. `hard_share` overrides that of the operating point.

    Raises InputError for a source without measurements, TargetOutOfReachError if even idle replicas break the promise.
    """
    if not (math.isfinite(request_rate) and request_rate > 0):
        raise InputError(f"the request rate must be a positive number of requests a second, got {request_rate}")
    if not 0 <= margin < 1:
        raise InputError(f"the margin must be from 0 to below 1, not {margin}")
    target = parse_target(promise)
    if target.of_range or target.statistic == THROUGHPUT:
        raise InputError(f"promise {promise!r} is not a latency; give one such as p95:20ms or 12ms")
    given = _read(source, model, operating_point, hard_share)
    correction = 1.0 if given.sweep is None else correction_of(given.sweep, target.statistic)
    queue = _Queue(given.replica, request_rate, target.statistic, correction)
    limit = target.value * (1 - margin)
    idle = queue.idle_ms()
    if idle > limit:
        takes, allowed = distinct(idle, limit)
        raise TargetOutOfReachError(
            f"even idle replicas take {takes} ms ({target.statistic.name}), and {target.text} less {margin:.0%} is "
            f"{allowed} ms: more replicas do not help; promise at least {idle / (1 - margin):.4g} ms, or send fewer "
            "images to detector 2"
        )
    replicas = _fewest(queue, limit)
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
        assumptions=(*ASSUMPTIONS, given.assumed),
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


@dataclass(frozen=True)
class _Queue:
    """Replicas at a request rate."""

    replica: Replica
    rate: float
    statistic: Statistic
    correction: float

    @property
    def least(self) -> int:
        """The fewest replicas that can keep up with the rate."""
        return math.floor(self.rate * self.replica.busy_ms / 1e3) + 1

    def idle_ms(self) -> float:
        """The statistic if no request waits."""
        return self.correction * of_latencies(self.statistic, self.replica.alone_ms())

    def latencies_ms(self, replicas: int) -> FloatArray:
        return self.correction * self.replica.open_loop_ms(self.rate / replicas)

    def promised_ms(self, replicas: int) -> float:
        """The promised statistic."""
        return of_latencies(self.statistic, self.latencies_ms(replicas))

    def row(self, replicas: int, limit: float) -> Row:
        latencies = self.latencies_ms(replicas)
        p50, p95, p99 = (of_latencies(Statistic(name), latencies) for name in ("p50", "p95", "p99"))
        promised = of_latencies(self.statistic, latencies)
        return Row(
            replicas=replicas,
            utilisation=self.rate / replicas * self.replica.busy_ms / 1e3,
            mean_ms=float(latencies.mean()),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            promised_ms=promised,
            holds=promised <= limit,
        )


def _fewest(queue: _Queue, limit: float) -> int:
    """The fewest replicas within the limit. With more replicas, requests never wait longer, so bisection finds them."""
    low, high = queue.least - 1, queue.least
    while queue.promised_ms(high) > limit:
        if high > _MOST_REPLICAS:
            raise TargetOutOfReachError(
                f"the promise needs more than {_MOST_REPLICAS} replicas; it leaves no time for requests to wait"
            )
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if queue.promised_ms(middle) <= limit else (middle, high)
    return high
