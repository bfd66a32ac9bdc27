"""Shows the plan of replicas whose thresholds follow the load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from dynamicdet.text import counted
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.deployment.plan_following import Absorbing, LevelCheck


def show_absorbing(console: Console, found: Absorbing, promise: str) -> None:
    """Print which load is absorbed by accuracy, and which is refused."""
    floor = f"a hard share of {found.hard_share_floor:.0%}"
    if found.ap_floor is not None:
        floor = f"an AP of {found.ap_floor:g} ({floor})"
    console.print(f"\nwith a threshold that follows the load and keeps {promise}:")
    console.print(_rows(found))
    refusing_nothing = _do(found.replicas_without_refusals, "refuses", "refuse")
    console.print(f"{refusing_nothing} nothing; {_do(found.replicas_at_floor, 'keeps', 'keep')} {floor}")
    if found.checks:
        console.print(_checks(found.checks))


def _do(replicas: int, one: str, many: str) -> str:
    return counted(replicas, f"replica {one}", f"replicas {many}")


def _rows(found: Absorbing) -> Table:
    known = any(row.ap is not None for row in found.rows)
    table = plain_table("replicas", "hard", *(("AP",) if known else ()), "refused", "")
    for row in found.rows:
        remarks = (
            *(("refuses nothing",) if row.replicas == found.replicas_without_refusals else ()),
            *(("at the floor",) if row.replicas == found.replicas_at_floor else ()),
        )
        table.add_row(
            str(row.replicas),
            f"{row.hard_share or 0:.0%}",
            *((_precision(row.ap),) if known else ()),
            f"{row.refused_share:.0%}" if row.refused_share else "none",
            f"<- {', '.join(remarks)}" if remarks else "",
        )
    return table


def _checks(checks: tuple[LevelCheck, ...]) -> Table:
    known = any(check.ap is not None and check.measured_ap is not None for check in checks)
    heads = ("hard: measured, estimated", "refused: measured, estimated", "in time, measured")
    table = plain_table("one server", *heads, *(("AP: measured, estimated",) if known else ()))
    for check in checks:
        hard = "-" if check.measured_hard_share is None else f"{check.measured_hard_share:.0%}"
        table.add_row(
            f"{check.rate_per_s:.4g} requests/s",
            f"{hard}, {check.hard_share:.0%}",
            f"{check.measured_refused_share:.0%}, {check.refused_share:.0%}",
            f"{check.within:.0%}",
            *((f"{_precision(check.measured_ap)}, {_precision(check.ap)}",) if known else ()),
        )
    return table


def _precision(ap: float | None) -> str:
    return "-" if ap is None else f"{ap:.1f}"


def plain_table(first: str, *headers: str) -> Table:
    """A table without lines; all columns but the first hold numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for header in headers:
        table.add_column(header, justify="right")
    return table
