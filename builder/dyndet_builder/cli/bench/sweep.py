"""`dyndet bench sweep`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.table import Table

from dynamicdet.aliases import Progress
from dynamicdet.cache import cache_folder
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in
from dyndet_bench.measuring.attempts import Missing
from dyndet_bench.measuring.load import Load
from dyndet_bench.report.facts import Facts
from dyndet_bench.report.text import column_decimals
from dyndet_bench.sweep.plan import SweepPlan
from dyndet_bench.sweep.record import Accuracy, Point, Sweep
from dyndet_builder.cli.measurements import check_complete, continues_in, show_origin
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import Numbers, check_metrics_url, metrics_url_option
from dyndet_builder.operating_points import OperatingPoint, points_file, read_operating_points
from dyndet_client.cli.terminal import Console

_PLAN = SweepPlan()


@click.command("sweep")
@click.argument("repository", type=click.Path(path_type=Path), required=False)
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of real images to send.")
@click.option("--output", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("build/sweep"),
              show_default=True, help="Folder for sweep.json, the reports and the measurements.")  # fmt: skip
@click.option("--url", help="gRPC address of a server.  [default: one is started that serves REPOSITORY]")
@metrics_url_option
@click.option("--model", help="Name of the served model.  [default: the detector of REPOSITORY, or else dyndet]")
@click.option("--hard-shares", type=Numbers(float), default=_PLAN.hard_shares, show_default="0,0.25,0.5,0.75,1",
              help="Shares of hard images; each gives a threshold.")  # fmt: skip
@click.option("--thresholds", type=Numbers(float), default=(), help="Additional thresholds.")
@click.option(
    "--concurrency",
    type=Numbers(int),
    help="Numbers of requests in flight; an answer lets the next one leave.  [default: 1,4]",
)
@click.option("--request-rate", type=Numbers(float), help="Requests per second that arrive at random times (Poisson).")
@click.option("--batch", type=Numbers(int), default=(1,), help="Images per request.  [default: 1]")
@click.option("--repetitions", type=int, default=_PLAN.repetitions, show_default=True, help="Runs of each cell.")
@click.option("--max-images", type=int, default=_PLAN.max_images, show_default=True, help="Images per run.")
@click.option("--requests", type=int, help="Requests per run.  [default: each image once]")
@click.option(
    "--data", type=click.Path(path_type=Path), help="COCO validation set, to measure the AP of each threshold."
)
@click.option("--operating-points", "points_file", type=click.Path(path_type=Path),
              help="operating_points.json to show.  [default: that of REPOSITORY]")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Measure everything again.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    repository: Path | None,
    images: Path,
    output: Path,
    url: str | None,
    metrics_url: str | None,
    model: str | None,
    hard_shares: tuple[float, ...],
    thresholds: tuple[float, ...],
    concurrency: tuple[int, ...] | None,
    request_rate: tuple[float, ...] | None,
    batch: tuple[int, ...],
    repetitions: int,
    max_images: int,
    requests: int | None,
    data: Path | None,
    points_file: Path | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Measure thresholds x loads x batches, and write a report.

    The command measures with perf_analyzer. Every cell contains the share of hard images that the server counted. Give
    REPOSITORY or the --url of a server.

    Each measurement is stored in the output folder. If you repeat the command within a day, it measures only what is
    missing. Exit status 6: some measurements failed twice; the reports show them.

    \b
    Examples:
      dyndet bench sweep build/demo/model_repository --images benchmarks/demo/val/images --data benchmarks/demo/val
      dyndet bench sweep --url gpu-box:8001 --images photos --concurrency 1,2,4,8 --request-rate 50,100
    """
    from dynamicdet.datasets.truth import read_objects
    from dyndet_bench.report.write import write_report  # what it draws with may be missing: say so before measuring
    from dyndet_bench.sweep.sweep import sweep
    from dyndet_builder.repository.fingerprint import repository_sha256
    from dyndet_builder.repository.marker import detector_of
    from dyndet_builder.server.triton import TritonServer

    if (repository is None) == (url is None):
        raise InputError("give either a model repository, which is then served, or the --url of a server")
    pictures_in(images)  # raises its error now, before a server starts
    check_metrics_url(metrics_url, url)
    plan = SweepPlan(
        hard_shares=hard_shares,
        thresholds=thresholds,
        loads=_loads(concurrency, request_rate, batch),
        repetitions=repetitions,
        max_images=max_images,
        requests=requests,
    )
    subject: dict[str, object] = {}
    model = detector_of(repository, model)
    points = _points(points_file, repository, model)
    if data is not None and not data.exists():
        raise InputError(f"the validation set {data} does not exist")
    truth = None if data is None else read_objects(data)
    with continues_in(output, fresh=fresh), ExitStack() as stack:
        show = stack.enter_context(step_bars())
        if url is None:
            assert repository is not None
            subject["repository"] = repository_sha256(repository)
            show("start the server", 0, 1)
            server = stack.enter_context(TritonServer(repository))
            show("start the server", 1, 1)
            url, metrics_url = server.grpc_url, server.metrics_url
        record = sweep(
            url,
            output,
            metrics_url=metrics_url,
            images=images,
            model=model,
            plan=plan,
            accuracy=None if data is None else _accuracy(url, model, data, show),
            accuracy_data=None if data is None else "/".join(data.resolve().parts[-2:]),
            truth=truth,
            points=points,
            fresh=fresh,
            subject=subject,
            progress=show,
        )
    written = write_report(record, output)
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    else:
        _print(record, written)
    check_complete(_missing(record), record.missing + _measured(record), output)


def _print(record: Sweep, written: Sequence[Path]) -> None:
    console = Console()
    console.print(_table(record))
    console.print("Latencies are in ms, from when a request was due until its answer arrived; medians of the runs.")
    facts = Facts(record)
    for cell in record.cells:
        if cell.warning is not None:
            place = f"{cell.load}, threshold {facts.threshold_text(cell.threshold)}"
            console.print(f"Warning, {place}: {cell.warning}")
    show_origin(console, repeats=record.repeats, replayed=record.replayed)
    for path in written:
        console.print(f"Wrote {path}.", soft_wrap=True)


def _missing(record: Sweep) -> list[Missing]:
    found = [
        Missing(what=f"{cell.load}, threshold {cell.threshold:.4g}", reason=reason)
        for cell in record.cells
        for reason in cell.missing
    ]
    if record.missing_routes is not None:
        found.insert(0, Missing(what="both routes on their own", reason=record.missing_routes))
    return found


def _measured(record: Sweep) -> int:
    routes = 0 if record.missing_routes is not None else 1
    return routes + sum(record.repetitions - len(cell.missing) for cell in record.cells)


def _loads(
    concurrency: Sequence[int] | None, request_rate: Sequence[float] | None, batches: Sequence[int]
) -> list[Load]:
    closed = concurrency or (() if request_rate else (1, 4))
    loads = [Load(concurrency=number, batch=batch) for batch in batches for number in closed]
    return loads + [Load(request_rate=rate, batch=batch) for batch in batches for rate in request_rate or ()]


def _accuracy(url: str, model: str, data: Path, show: Progress) -> Callable[[Sequence[float]], list[Accuracy]]:
    # Needs what training needs: pycocotools and torch.
    from dyndet_builder.evaluation.evaluate import evaluate

    def ask(thresholds: Sequence[float]) -> list[Accuracy]:
        report = evaluate(
            data=data, url=url, model=model, thresholds=thresholds, cache=cache_folder("detections"), progress=show
        )
        found = report.evaluation
        masks = [None] * len(found.points) if found.masks is None else [one.precision.ap for one in found.masks.points]
        return [
            Accuracy(
                threshold=threshold,
                hard_share=point.hard_share,
                ap=point.precision.ap,
                ap50=point.precision.ap50,
                mask_ap=mask_ap,
            )
            for threshold, point, mask_ap in zip(thresholds, found.points, masks, strict=True)
        ]

    return ask


def _points(file: Path | None, repository: Path | None, model: str) -> list[Point]:
    if file is None:
        known = None if repository is None else points_file(repository, model)
        if known is None or not known.is_file():
            return []
        file = known
    return [_point(name, point) for name, point in read_operating_points(file).points.items() if point.target]


def _point(name: str, point: OperatingPoint) -> Point:
    unit = " ms" if point.unit == "ms" else point.unit
    return Point(
        name=name,
        threshold=point.threshold,
        target=point.target,
        reached=f"{point.statistic} {point.reached:.2f}{unit}",
        error=point.error,
        interval=None if point.interval is None else (point.interval[1] - point.interval[0]) / 2,
        hard_share=None if point.easy_share is None else 1 - point.easy_share,
        goodput=point.goodput,
        load=point.load,
    )


def _table(record: Sweep) -> Table:
    heads = ("load", "threshold", "hard share", "AP", "mean", "p50", "p95", "p99", "images/s")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head == "load" else "right", no_wrap=head in heads[:2])
    facts = Facts(record)
    decimals = column_decimals(cell.waited.p99_ms for cell in record.cells if cell.waited is not None)
    precision = {one.threshold: f"{one.ap:.1f}" for one in record.accuracy}
    for cell in record.cells:
        first = (str(cell.load), facts.threshold_text(cell.threshold))
        found = cell.waited
        if found is None:
            table.add_row(*first, "missing")
            continue
        table.add_row(
            *first,
            f"{cell.hard_share:.0%}",
            precision.get(cell.threshold, ""),
            *(f"{time:.{decimals}f}" for time in (found.mean_ms, found.p50_ms, found.p95_ms, found.p99_ms)),
            f"{cell.throughput_per_s:.1f}",
        )
    return table
