"""Options that several commands share: what is promised, at which load, and how carefully it is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.targets import Target, parse_targets

Command = Callable[..., Any]

_EFFORT = Effort()


class TargetsParameter(click.ParamType):  # type: ignore[type-arg]
    """A click parameter that takes one or several targets."""

    name = "targets"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Target, ...]:
        """Parse what was typed. Raises InputError."""
        return value if isinstance(value, tuple) else parse_targets(str(value))


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """A click parameter that takes numbers separated by commas; an empty text is an empty tuple."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse what was typed. Raises InputError."""
        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        try:
            return tuple(self._kind(part) for part in text.split(",")) if text else ()
        except ValueError as error:
            option = param.opts[0] if param is not None else "this option"
            numbers = "whole numbers" if self._kind is int else "numbers"
            raise InputError(f"{option} takes {numbers} separated by commas, such as 1,4,8; got {value!r}") from error


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


follow_load_option = click.option(
    "--follow-load/--no-follow-load",
    default=None,
    help="Raise the threshold while the load is too high for a promised latency.  [default: yes, once a calibration "
    "promises a latency]",
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


accept_option = click.option(
    "--accept-ill-conditioned",
    is_flag=True,
    help="Accept a percentile that other images would miss, with a warning instead of exit status 3.",
)


def effort_options(command: Command) -> Command:
    """Add --tolerance, --time-budget (minutes) and --accept-ill-conditioned; the command gets one `effort`."""

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
        help="Minutes, from the first measurement, after which no further rounds are added because of noise.  A target "
        "that is met by then is accepted with a warning.",
    )
    @accept_option
    @functools.wraps(command)
    def with_effort(
        *, tolerance: float | None, time_budget: float, accept_ill_conditioned: bool, **options: Any
    ) -> Any:
        effort = Effort(
            tolerance=tolerance, time_budget_s=60 * time_budget, accept_ill_conditioned=accept_ill_conditioned
        )
        return command(effort=effort, **options)

    return with_effort
