"""`dyndet bench`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dyndet_bench.comparisons.overhead import OverheadRecord, measure_overhead
from dyndet_bench.measuring.machine import summary
from dyndet_bench.measuring.perf_run import repeats_text
from dyndet_bench.sweep.compare import THRESHOLD, THRESHOLD_P99, Change, ComparedCell, Comparison, compare
from dyndet_bench.sweep.paper import FITTED_ROWS
from dyndet_builder.cli.bench.client import command as client_command
from dyndet_builder.cli.bench.plot import command as plot_command
from dyndet_builder.cli.bench.serving import command as serving_command
from dyndet_builder.cli.bench.sweep import command as sweep_command
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import check_metrics_url, metrics_url_option
from dyndet_builder.paper import SOURCE, PaperComparison, compare_with_paper
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.triton import TritonServer


@click.group("bench")
def command() -> None:
    """Measure a served detector."""


command.add_command(sweep_command)
command.add_command(plot_command)
command.add_command(serving_command)
command.add_command(client_command)


@command.command("overhead")
@click.argument("repository", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path), required=True, help="Folder of real images to send and to run."
)
@click.option("--url", help="gRPC address of a server that serves REPOSITORY.  [default: one is started]")
@metrics_url_option
@click.option("--model", default="dyndet", show_default=True, help="Name of the served model.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--max-images", type=click.IntRange(1), default=40, show_default=True, help="Images per run.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def overhead(
    repository: Path,
    images: Path,
    url: str | None,
    metrics_url: str | None,
    model: str,
    rounds: int,
    max_images: int,
    as_json: bool,
) -> None:
    """Compare a served answer with bare ONNX Runtime calls.

    Both run the same stages on the same images.

    \b
    Example:
      dyndet bench overhead build/models --images benchmarks/demo/val/images
    """
    check_metrics_url(metrics_url, url)
    rendered = read_rendered(repository, model=model)
    with ExitStack() as stack:
        if url is None:
            server = stack.enter_context(TritonServer(repository))
            url, metrics_url = server.grpc_url, server.metrics_url
        show = stack.enter_context(step_bars())
        record = measure_overhead(
            url,
            graphs=rendered.cpu_graphs,
            threads=rendered.options.threads,
            metrics_url=metrics_url,
            images=images,
            model=model,
            rounds=rounds,
            max_images=max_images,
            progress=show,
        )
    if as_json:
        click.echo(record.model_dump_json(indent=2))
        return
    console = Console(highlight=False)
    console.print(_overhead_table(record))
    seen = record.circumstances
    console.print(f"{record.rounds} rounds of {record.images} images; {summary(seen.machine)}; {seen.date}")
    if record.repeats:
        console.print(repeats_text(record.repeats))


def _overhead_table(record: OverheadRecord) -> Table:
    table = Table("route", "served, ms", "bare, ms", "ratio", "range of the rounds", box=None, header_style="bold")
    for name, route in (("easy", record.easy), ("hard", record.hard)):
        spread = f"{route.ratio_low:.2f} to {route.ratio_high:.2f}"
        table.add_row(name, f"{route.served_ms:.2f}", f"{route.bare_ms:.2f}", f"{route.ratio:.3f}", spread)
    return table


@command.command("paper")
@click.option("--no-gpu", is_flag=True, help="Do not measure, even if there is a GPU.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def paper(no_gpu: bool, as_json: bool) -> None:
    """Print the paper's table of trade-offs beside our values.

    GFLOPs are computed from the networks. The latency model of `dyndet calibrate`, fitted to two rows of the paper,
    predicts FPS. If there is a GPU, FPS are also measured: fp16, one image at a time, random weights, without NMS.

    \b
    Example:
      dyndet bench paper --json
    """
    with step_bars() as show:
        result = compare_with_paper(gpu=not no_gpu, progress=show)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
        return
    console = Console(highlight=False)
    console.print(_paper_table(result))
    console.print(f"\npaper: {SOURCE}")
    low, high = FITTED_ROWS
    console.print(f"latency model: lat1 and lat2 fitted to the rows marked * ({low} and {high} % hard)")
    for model in result.models:
        console.print(f"  {model.paper.name}: lat1 {model.fitted.lat1_ms:.2f} ms, lat2 {model.fitted.lat2_ms:.2f} ms")
    console.print(f"ours: {result.gpu or 'not measured (no GPU)'}")


def _paper_table(result: PaperComparison) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model")
    headers = ("hard\n%", "GFLOPs\npaper", "GFLOPs\nours", "\n", "FPS\npaper", "FPS\nmodel", "\n", "FPS\nours")
    for header in headers:
        table.add_column(header, justify="right")
    for model in result.models:
        for index, row in enumerate(model.rows):
            measured = "-" if row.measured_fps is None else f"{row.measured_fps:.1f}"
            table.add_row(
                model.paper.name if index == 0 else "",
                str(row.paper.hard_percent),
                f"{row.paper.gflops:.1f}",
                f"{row.gflops:.1f}",
                f"{row.gflops / row.paper.gflops - 1:+.1%}",
                str(row.paper.fps),
                f"{row.predicted_fps:.1f}",
                "*" if row.fitted else f"{row.predicted_fps / row.paper.fps - 1:+.1%}",
                measured,
            )
    return table


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


@command.command("compare")
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
def compare_command(
    ctx: click.Context, old: Path, new: Path, threshold: float, threshold_p99: float, as_json: bool
) -> None:
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
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if result.differences:
        console.print(f"Warning: the sweeps differ in {'; '.join(result.differences)}", style="yellow")
    console.print(_comparison_table(result), soft_wrap=False)
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
    for header in ("threshold", "load", "mean, ms", "p99, ms", "images/s", "hard", "verdict"):
        table.add_column(header, no_wrap=True)
    for cell in result.cells:
        changes = {change.metric: change for change in cell.changes}
        beyond = [f"{_SHORT[change.metric]} {change.verdict}" for change in cell.changes if change.beyond_noise]
        table.add_row(
            f"{cell.threshold:.4g}",
            cell.load.short,
            *(_changed(changes.get(metric)) for metric in ("mean latency", "p99 latency", "throughput")),
            _hard(cell),
            "\n".join(beyond),
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
