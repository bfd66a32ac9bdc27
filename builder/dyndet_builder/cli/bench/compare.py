"""`dyndet bench compare`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from dyndet_bench.report.text import threshold_decimals
from dyndet_bench.sweep.compare import THRESHOLD, THRESHOLD_P99, Change, ComparedCell, Comparison, compare
from dyndet_client.cli.terminal import Console


class _Percent(click.ParamType):  # type: ignore[type-arg]
    """`5%` or `0.05`."""

    name = "percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not 0 <= number < 1:  # 5 would be 500 %
            self.fail(f"{text!r} is not a relative change; give one such as 5% or 0.05", param, ctx)
        return number


@click.command("compare")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    type=_Percent(),
    default=f"{THRESHOLD:.0%}",
    show_default=True,
    help="Smallest change of mean latency or throughput that counts.",
)
@click.option(
    "--threshold-p99",
    type=_Percent(),
    default=f"{THRESHOLD_P99:.0%}",
    show_default=True,
    help="Smallest change of p99 that counts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, old: Path, new: Path, threshold: float, threshold_p99: float, as_json: bool) -> None:
    """Compare two sweeps.

    OLD and NEW are folders of `dyndet bench sweep`, or their sweep.json.

    A cell is slower or faster if its mean latency or throughput changed by more than --threshold and the 95 % intervals
    of the two sweeps do not overlap. p99 has no interval: it counts if it changed by more than --threshold-p99. Values
    of a sweep without repetitions have no intervals either.

    Exit status 0: nothing is slower beyond noise. Exit status 1: a cell is slower, or can no longer be measured. Exit
    status 2: a sweep cannot be read, or the two sweeps have no cell in common.

    \b
    Example:
      dyndet bench compare results/main results/branch
    """
    result = compare(old, new, threshold=threshold, threshold_p99=threshold_p99)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        _print_comparison(result)
    ctx.exit(1 if result.slower else 0)


def _print_comparison(result: Comparison) -> None:
    console = Console()
    if result.differences:
        console.print(f"Warning: the sweeps differ in {'; '.join(result.differences)}", style="yellow")
    console.print(_comparison_table(result))
    console.print("Each value: old -> new. Latencies count from when a request was due, and are medians of the runs.")
    console.print("A verdict needs a change beyond the noise between runs.")
    for title, names in (
        ("no longer measurable", result.newly_failed),
        ("not measured", result.failed),
        ("only in the old sweep", result.only_old),
        ("only in the new sweep", result.only_new),
    ):
        for name in names:
            console.print(f"{title}: {name}")
    for one in result.accuracy:
        console.print(f"AP at threshold {one.threshold:.4g}: {one.old:.1f} -> {one.new:.1f} ({one.new - one.old:+.1f})")
    counts = [f"{sum(cell.verdict == verdict for cell in result.cells)} {verdict}" for verdict in _VERDICTS]
    console.print(f"{len(result.cells)} cells in both: {', '.join(counts)}")


_VERDICTS = ("slower", "faster", "within noise")
_SHORT = {"mean latency": "mean", "p99 latency": "p99", "throughput": "images/s"}
_STYLES = {"slower": "bold red", "faster": "green", "within noise": ""}


def _comparison_table(result: Comparison) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("load", "threshold", "hard\nshare", "mean, ms", "p99, ms", "images/s", "verdict"):
        table.add_column(header, no_wrap=header != "load", min_width=len("concurrency 1") if header == "load" else None)
    decimals = threshold_decimals(cell.threshold for cell in result.cells)
    for cell in result.cells:
        changes = {change.metric: change for change in cell.changes}
        beyond = [f"{_SHORT[change.metric]} {change.verdict}" for change in cell.changes if change.beyond_noise]
        table.add_row(
            str(cell.load),
            f"{cell.threshold:.{decimals}f}" if 0 < cell.threshold < 1 else f"{cell.threshold:.0f}",
            _hard(cell),
            *(_changed(changes.get(metric)) for metric in ("mean latency", "p99 latency", "throughput")),
            ", ".join(beyond),
            style=_STYLES[cell.verdict],
        )
    return table


def _changed(change: Change | None) -> str:
    if change is None:
        return "-"
    old, new = (f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in (change.old, change.new))
    return f"{old} -> {new}\n({change.relative:+.1%})"


def _hard(cell: ComparedCell) -> str:
    shares = ["?" if share is None else f"{share:.0%}" for share in (cell.old_hard_share, cell.new_hard_share)]
    return shares[0] if shares[0] == shares[1] else " -> ".join(shares)
