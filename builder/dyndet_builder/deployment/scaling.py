"""What the autoscaler follows: requests that wait or, where thresholds follow the load, accuracy that gives way."""

from __future__ import annotations

from dataclasses import dataclass

from dynamicdet.errors import InputError
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.series import queue_ms
from dyndet_builder.operating_points import Evidence, RouteLatency
from dyndet_builder.quoting import promql
from dyndet_builder.repository.rendered import Rendered

_WINDOW = "1m"
_ALL_HARD = 0.995
"""gear from which the load leaves every image to detector 2"""
_BUSY = 0.7
"""share of the time that replicas are to be busy, while the gear does not tell how busy they are"""
_LARGEST = 10
"""replicas wanted for one: no metric multiplies their number by more at once"""
_PRESSURE = 0.9
"""target of the pressure; Kubernetes adds replicas from a tenth above it"""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """A metric of a pod, and its target."""

    metric: str
    target: float
    series: str
    """metric of the server from which prometheus-adapter finds the pods"""
    follows_load: bool
    deployed: Rendered
    pressure: Pressure | None = None

    def query(self, *, where: str, by: str) -> str:
        """PromQL of the metric, by some labels."""
        if self.pressure is None:
            return queue_ms(self.deployed, where=where, by=by, window=_WINDOW)
        return self.pressure.query(self.deployed.model, where=where, by=by)


@dataclass(frozen=True, kw_only=True)
class Pressure:
    """How much of a replica the load needs if the hard share is not to fall below a floor; above 1, it falls."""

    hard_share: float
    """the floor"""
    easy_ms: float
    """time in which a busy replica answers an easy image"""
    hard_ms: float

    def query(self, model: str, *, where: str, by: str) -> str:
        """PromQL of it.

        Let r be the time of a hard image, in times of an easy one. A replica whose gear is g has time for a hard share
        of g: its capacity is one image in (1 + g (r - 1)) units of time, and the floor h needs 1 + h (r - 1). Refused
        requests need as much as answered ones. While the gear is 1, this is only a bound; the images a second with the
        calibrated times say how far below it the load is. So an idle replica may go, and an estimate adds none.
        """
        mine = f"{where},model={promql(model)}"
        extra = max(0.0, self.hard_ms / self.easy_ms - 1)
        needed, most = 1 + self.hard_share * extra, 1 + extra
        gear = f"avg by ({by}) (avg_over_time(dyndet_gear{{{mine}}}[{_WINDOW}]))"
        offered = f"sum by ({by}) (rate(dyndet_arrivals_total{{{mine}}}[{_WINDOW}]))"
        refused = f'sum by ({by}) (rate(dyndet_requests_failed_total{{{mine},reason="overloaded"}}[{_WINDOW}]))'
        images = f"sum by ({by}) (rate(dyndet_routed_total{{{mine}}}[{_WINDOW}]))"
        accepted = f"clamp_min({offered} - ({refused} or 0 * {offered}), 0.001)"
        by_gear = f"clamp_max({needed:.4g} / (1 + {extra:.4g} * {gear}) * {offered} / {accepted}, {_LARGEST})"
        busy = needed * self.easy_ms / 1e3 / _BUSY
        by_images = f"clamp_max({busy:.4g} * {images}, {needed / most:.4g})"
        return f"({gear} < bool {_ALL_HARD}) * {by_gear} + ({gear} >= bool {_ALL_HARD}) * {by_images}"


def scaling(deployed: Rendered, options: DeployOptions) -> Scaling:
    """What the autoscaler of a deployment follows. Raises InputError for a floor that does not apply or is too high."""
    pressure = _pressure(deployed, options)
    if pressure is None:
        if options.hard_share_floor is not None:
            raise InputError(
                f"the hard share floor {options.hard_share_floor:g} needs a calibrated operating point that follows "
                f"the load; {deployed.points.default!r} does not (see `dyndet follow`)"
            )
        return Scaling(
            metric="dyndet_queue_ms",
            target=queue_target_ms(deployed, options),
            series="nv_inference_pending_request_count",
            follows_load=False,
            deployed=deployed,
        )
    return Scaling(
        metric="dyndet_pressure",
        target=_PRESSURE,
        series="dyndet_gear",
        follows_load=True,
        deployed=deployed,
        pressure=pressure,
    )


def queue_target_ms(deployed: Rendered, options: DeployOptions) -> float:
    """Mean wait above which replicas are added: half the time of a request, as at a server that is half busy."""
    mean = deployed.default_point.mean_ms
    return options.queue_target_ms or (5.0 if mean is None else max(1.0, round(mean / 2, 1)))


def hard_share_floor(deployed: Rendered, options: DeployOptions) -> float | None:
    """The hard share below which replicas are added; None: nothing says it."""
    easy_share = deployed.default_point.easy_share
    calibrated = None if easy_share is None else 1 - easy_share
    wanted = options.hard_share_floor
    if wanted is not None and calibrated is not None and wanted > calibrated:
        raise InputError(
            f"the hard share floor {wanted:g} is above the calibrated hard share of {deployed.points.default!r}, "
            f"{calibrated:.4g}, which no number of replicas exceeds; give at most that"
        )
    return calibrated if wanted is None else wanted


def _pressure(deployed: Rendered, options: DeployOptions) -> Pressure | None:
    evidence = deployed.points.evidence
    if deployed.default_point.followed is None or evidence is None:
        return None
    floor = hard_share_floor(deployed, options)
    easy, hard = _image_ms(evidence, evidence.easy), _image_ms(evidence, evidence.hard)
    if floor is None or easy <= 0 or hard <= 0:
        return None
    return Pressure(hard_share=floor, easy_ms=easy, hard_ms=hard)


def _image_ms(evidence: Evidence, route: RouteLatency) -> float:
    """Time in which a server answers an image of a route; at a request rate, its throughput says nothing."""
    if evidence.request_rate is not None or route.throughput_per_s <= 0:
        return route.mean_ms
    return 1e3 / route.throughput_per_s
