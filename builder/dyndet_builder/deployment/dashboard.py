"""The Grafana dashboard as data: its panels, their places and their queries."""

from __future__ import annotations

from dataclasses import dataclass

from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.panel import RATE, Panel, Query
from dyndet_builder.deployment.promise_alerts import promise_of
from dyndet_builder.deployment.scaling import scaling
from dyndet_builder.deployment.series import failures, queue_ms
from dyndet_builder.deployment.under_load_panels import under_load_panels
from dyndet_builder.quoting import grafana, pattern, promql
from dyndet_builder.repository.rendered import Rendered

_COLUMNS = 24
_SERVERS = 'instance=~"$instance"'  # the dashboard's variable


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A panel with its number and place."""

    panel: Panel
    number: int
    x: int
    y: int


def panels(deployed: Rendered, options: DeployOptions, *, job: str) -> tuple[Placed, ...]:
    """The dashboard's panels, row by row."""
    mine = f"job={promql(job)},{_SERVERS},model={promql(deployed.model)}"
    promise = _promise(deployed, options)
    found = [*_overview(mine, job, promise), *_latency(mine, promise), *_routing(deployed, mine)]
    found += [*under_load_panels(deployed, options, mine), *_load(deployed, options, job)]
    found += _server(deployed, mine, job)
    placed: list[Placed] = []
    x = y = row_height = 0
    for number, panel in enumerate(found, 1):
        if x + panel.width > _COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        placed.append(Placed(panel=panel, number=number, x=x, y=y))
        x, row_height = x + panel.width, max(row_height, panel.height)
    return tuple(placed)


def _promise(deployed: Rendered, options: DeployOptions) -> tuple[Query, ...]:
    """The promised latency as a line; none if no latency is promised."""
    promise = promise_of(deployed, options)
    return (
        ()
        if promise is None
        else (Query(expr=f"vector({promise.goal_ms:g})", legend=f"promise {grafana(promise.text)}"),)
    )


def _overview(mine: str, job: str, promise: tuple[Query, ...]) -> list[Panel]:
    answered = f"sum(rate(nv_inference_request_success{{{mine}}}{RATE}))"
    spent, timed = (f"sum(rate(dyndet_latency_ms_{what}{{{mine}}}{RATE}))" for what in ("sum", "count"))
    routed = f"sum(increase(dyndet_routed_total{{{mine}}}{RATE}))"
    hard = f'sum(increase(dyndet_routed_total{{{mine},route!="easy"}}{RATE}))'
    return [
        _stat("Requests a second", answered, "reqps"),
        _stat("Mean latency, with the queue", f"{spent} / ({timed} > 0)", "ms", *promise),
        _stat("Hard share", f"{hard} / ({routed} > 0)", "percentunit"),
        _stat("Servers that answer", f"sum(up{{job={promql(job)}}})", "short"),
    ]


def _stat(title: str, expr: str, unit: str, *more: Query) -> Panel:
    queries = (Query(expr=expr, legend="now" if more else ""), *more)
    return Panel(title=title, queries=queries, unit=unit, kind="stat", width=6, height=4)


def _latency(mine: str, promise: tuple[Query, ...]) -> list[Panel]:
    buckets = f"sum by (le) (rate(dyndet_latency_ms_bucket{{{mine}}}{RATE}))"
    return [
        Panel(
            title="Latency inside the detector",
            queries=(
                *(
                    Query(expr=f"histogram_quantile({level}, {buckets})", legend=f"p{level * 100:g}")
                    for level in (0.5, 0.95, 0.99)
                ),
                *promise,
            ),
            unit="ms",
            note="From the arrival of a request at the detector, with its queue, to the answer; all servers together.",
        ),
        Panel(
            title="Latency by server, p95",
            queries=(
                Query(
                    expr="histogram_quantile(0.95, "
                    f"sum by (le, instance) (rate(dyndet_latency_ms_bucket{{{mine}}}{RATE})))",
                    legend="{{instance}}",
                ),
                *promise,
            ),
            unit="ms",
        ),
        Panel(
            title="Requests by latency",
            queries=(Query(expr=f"sum by (le) (increase(dyndet_latency_ms_bucket{{{mine}}}{RATE}))", legend="{{le}}"),),
            unit="ms",
            kind="heatmap",
        ),
    ]


def _routing(deployed: Rendered, mine: str) -> list[Panel]:
    routed = f"sum(increase(dyndet_routed_total{{{mine}}}[30m]))"
    hard = f'sum(increase(dyndet_routed_total{{{mine},route!="easy"}}[30m]))'
    shares = [Query(expr=f"{hard} / ({routed} > 0)", legend="last 30 minutes")]
    easy = deployed.default_point.easy_share
    if easy is not None:
        shares.append(Query(expr=f"vector({1 - easy:.4g})", legend="calibrated"))
    return [
        Panel(
            title="Images a second by route",
            queries=(Query(expr=f"sum by (route) (rate(dyndet_routed_total{{{mine}}}{RATE}))", legend="{{route}}"),),
            unit="short",
        ),
        Panel(title="Hard share", queries=tuple(shares), unit="percentunit"),
        Panel(
            title="Difficulties of the images",
            queries=(Query(expr=f"sum by (le) (increase(dyndet_difficulty_bucket{{{mine}}}{RATE}))", legend="{{le}}"),),
            unit="short",
            kind="heatmap",
        ),
        Panel(
            title="Threshold",
            queries=(Query(expr=f"max by (instance) (dyndet_threshold{{{mine}}})", legend="{{instance}}"),),
            unit="none",
            note="For requests without their own. If servers differ, they read different operating points.",
        ),
    ]


def _load(deployed: Rendered, options: DeployOptions, job: str) -> list[Panel]:
    """What waits, and what the autoscaler makes of it, by its own formula."""
    mine = f"job={promql(job)}"
    scaled = scaling(deployed, options)
    waits = [
        Query(expr=queue_ms(deployed, where=f"{mine},{_SERVERS}", by="instance", window="1m"), legend="{{instance}}")
    ]
    if not scaled.follows_load:
        waits.append(Query(expr=f"vector({scaled.target:g})", legend="target"))
    servers = f"sum(up{{{mine}}})"
    wanted = f"ceil({servers} * avg({scaled.query(where=mine, by='instance')}) / {scaled.target:g})"
    found = [
        Panel(
            title="Wait for an instance now",
            queries=tuple(waits),
            unit="ms",
            note="What waits, divided by what is answered a second."
            + ("" if scaled.follows_load else " Autoscaling follows this."),
        )
    ]
    replicas = [Query(expr=servers, legend="answering")]
    if options.max_replicas > options.replicas:
        limits = f"{options.replicas}, {options.max_replicas}"
        replicas.append(Query(expr=f"clamp({wanted}, {limits})", legend="wanted by the autoscaler"))
    replicas.append(Query(expr=f"vector({options.max_replicas})", legend="most"))
    found.append(
        Panel(
            title="Replicas",
            queries=tuple(replicas),
            unit="short",
            note="The wanted number is computed as the autoscaler does it, without its delays.",
        )
    )
    return found


def _server(deployed: Rendered, mine: str, job: str) -> list[Panel]:
    job_is = f"job={promql(job)},{_SERVERS}"
    models = f"{job_is},model=~{promql(pattern(*deployed.models))}"

    def per_request(metric: str) -> str:
        return (
            f"sum by (model) (rate({metric}{{{models}}}{RATE})) / "
            f"(sum by (model) (rate(nv_inference_request_success{{{models}}}{RATE})) > 0) / 1000"
        )

    errors = f"sum by (stage) (rate(dyndet_stage_errors_total{{{mine}}}{RATE}))"
    asked = " + ".join(f"sum(rate(nv_inference_request_{how}{{{mine}}}{RATE}))" for how in ("success", "failure"))
    ratio = f"{failures(mine, RATE, by='reason')} / scalar(({asked}) > 0)"
    found = [
        Panel(
            title="Requests that fail, by reason",
            queries=(Query(expr=ratio, legend="{{reason}}"),),
            unit="percentunit",
            note="Small letters: counted by the detector. Capitals: counted by Triton before a request reached it.",
        ),
        Panel(
            title="Time that answered requests waited in Triton",
            queries=(Query(expr=per_request("nv_inference_queue_duration_us"), legend="{{model}}"),),
            unit="ms",
            note="Until the detector takes them into its own queue, or a stage runs them.",
        ),
        Panel(
            title="Requests waiting in Triton",
            queries=(
                Query(expr=f"sum by (model) (nv_inference_pending_request_count{{{models}}})", legend="{{model}}"),
            ),
            unit="short",
        ),
        Panel(
            title="Time in a model",
            queries=(Query(expr=per_request("nv_inference_compute_infer_duration_us"), legend="{{model}}"),),
            unit="ms",
            note="The public model's includes the models that it calls, but no requests that waited in its own queue.",
        ),
        Panel(
            title="Errors of stages a second",
            queries=(Query(expr=errors, legend="{{stage}}"),),
            unit="short",
        ),
        Panel(
            title="CPU in use",
            queries=(Query(expr=f"nv_cpu_utilization{{{job_is}}}", legend="{{instance}}"),),
            unit="percentunit",
            note="Of the whole machine, as Triton sees it.",
        ),
    ]
    if deployed.gpus:
        used, total = (f"nv_gpu_memory_{name}_bytes{{{job_is}}}" for name in ("used", "total"))
        gpu = "{{instance}} {{gpu_uuid}}"
        found += [
            Panel(
                title="GPU in use",
                queries=(Query(expr=f"nv_gpu_utilization{{{job_is}}}", legend=gpu),),
                unit="percentunit",
                needs_gpu=True,
            ),
            Panel(
                title="GPU memory in use",
                queries=(Query(expr=f"{used} / ({total} > 0)", legend=gpu),),
                unit="percentunit",
                needs_gpu=True,
            ),
        ]
    return found
