"""The panels that show what gives way under load."""

from __future__ import annotations

from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.panel import RATE, Panel, Query
from dyndet_builder.deployment.scaling import scaling
from dyndet_builder.repository.rendered import Rendered


def under_load_panels(deployed: Rendered, options: DeployOptions, mine: str) -> list[Panel]:
    """Accuracy that gives way, requests that give way, the queue, and tenants; `mine` has the detector's labels."""
    return [
        Panel(
            title="Hard share that the load allows",
            queries=_gear(deployed, options, mine),
            unit="percentunit",
            note="The gear. Below the calibrated share, the threshold is raised. Autoscaling adds replicas below the "
            "floor.",
        ),
        Panel(title="Degraded, refused, late", queries=_given_way(mine), unit="percentunit"),
        Panel(
            title="Requests in the detector's queue",
            queries=(Query(expr=f"max by (instance) (dyndet_queue{{{mine}}})", legend="{{instance}}"),),
            unit="short",
        ),
        Panel(
            title="Hard images a second by tenant",
            queries=(
                Query(
                    expr=f'sum by (tenant) (rate(dyndet_tenant_routed_total{{{mine},route="hard"}}{RATE}))',
                    legend="{{tenant}}",
                ),
            ),
            unit="short",
            note="Tenants without a budget of their own count as other.",
        ),
        Panel(
            title="Degraded and refused images of tenants, a second",
            queries=(
                Query(
                    expr="sum by (tenant, route) "
                    f'(rate(dyndet_tenant_routed_total{{{mine},route=~"degraded|refused"}}{RATE}))',
                    legend="{{tenant}} {{route}}",
                ),
            ),
            unit="short",
        ),
    ]


def _gear(deployed: Rendered, options: DeployOptions, mine: str) -> tuple[Query, ...]:
    allowed = Query(expr=f"min by (instance) (dyndet_gear{{{mine}}})", legend="{{instance}}")
    pressure = scaling(deployed, options).pressure
    if pressure is None:
        return (allowed,)
    return allowed, Query(expr=f"vector({pressure.hard_share:.4g})", legend="floor of autoscaling")


def _given_way(mine: str) -> tuple[Query, ...]:
    images = f"sum(rate(dyndet_routed_total{{{mine}}}{RATE}))"
    offered = f"sum(rate(dyndet_arrivals_total{{{mine}}}{RATE}))"
    degraded = f'sum(rate(dyndet_routed_total{{{mine},route="degraded"}}{RATE}))'
    refused = f'sum(rate(dyndet_requests_failed_total{{{mine},reason="overloaded"}}{RATE}))'
    late = f"sum(rate(dyndet_deadline_missed_total{{{mine}}}{RATE}))"
    return (
        Query(expr=f"{degraded} / ({images} > 0)", legend="degraded, of the images"),
        Query(expr=f"{refused} / ({offered} > 0)", legend="refused, of the requests"),
        Query(expr=f"{late} / ({offered} > 0)", legend="late, of the requests"),
    )
