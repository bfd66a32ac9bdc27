"""Options of every command that calibrates: what is promised, at which load, and how carefully it is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.targets import TargetsParameter

Command = Callable[..., Any]

_EFFORT = Effort()

targets_option = click.option(
    "--target-latency",
    "targets",
    type=TargetsParameter(),
    required=True,
    help="One or several targets, separated by commas: a mean (12ms), a percentile (p95:15ms), a throughput "
    "(throughput:80/s), or a share of the way from all-easy to all-hard (50%, p95:50%). The first becomes the default.",
)

metrics_url_option = click.option(
    "--metrics-url",
    help="Address of the server's metrics, for the topology fused.  [default: port 8002 of its host]",
)


def check_metrics_url(metrics_url: str | None, url: str | None) -> None:
    """Raise UsageError where --metrics-url would be ignored: a server that is started here has its own."""
    if metrics_url is not None and url is None:
        raise click.UsageError("--metrics-url needs --url: a server that is started here has its own metrics")


def load_options(command: Command) -> Command:
    """Add --concurrency, --request-rate and --batch; the command gets them as one `load`."""

    @click.option("--concurrency", type=int, help="Requests in flight while measuring.  [default: 1]")
    @click.option(
        "--request-rate",
        type=float,
        help="Requests per second with Poisson arrivals, instead of --concurrency; latency counts from when a request "
        "is due.",
    )
    @click.option("--batch", type=int, default=1, show_default=True, help="Images per request.")
    @functools.wraps(command)
    def with_load(*, concurrency: int | None, request_rate: float | None, batch: int, **options: Any) -> Any:
        if concurrency is not None and request_rate is not None:
            raise InputError("--concurrency and --request-rate exclude each other: give one of them")
        in_flight = 1 if concurrency is None else concurrency
        return command(load=Load(concurrency=in_flight, request_rate=request_rate, batch=batch), **options)

    return with_load


def effort_options(command: Command) -> Command:
    """Add --tolerance and --time-budget (minutes); the command gets them as one `effort`."""

    @click.option(
        "--tolerance",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Largest accepted relative difference from a target.  [default: 0.03, for percentiles 0.08]",
    )
    @click.option(
        "--time-budget",
        type=click.FloatRange(0),
        default=_EFFORT.time_budget_s / 60,
        show_default=True,
        help="Minutes after which a verification stops, however noisy it is.",
    )
    @functools.wraps(command)
    def with_effort(*, tolerance: float | None, time_budget: float, **options: Any) -> Any:
        return command(effort=Effort(tolerance=tolerance, time_budget_s=60 * time_budget), **options)

    return with_effort
