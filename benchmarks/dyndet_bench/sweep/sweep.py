"""Measures a served detector at many thresholds and loads: `dyndet bench sweep`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from dynamicdet.aliases import FloatArray, Progress, silent
from dynamicdet.errors import DyndetError, InputError, MissingExtraError, ServerError
from dynamicdet.files import whole_file
from dynamicdet.matching import Objects
from dynamicdet.pictures import pictures_in
from dynamicdet.text import printable
from dynamicdet.thresholds import threshold_for_easy_share
from dyndet_bench.measuring.attempts import try_twice
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.machine import circumstances
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.round_journal import Round
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.statistic import MEAN, pooled
from dyndet_bench.measuring.workload import Workload, read_letterboxed
from dyndet_bench.sweep.cells import RAW_FOLDER, CellRuns, cells_of
from dyndet_bench.sweep.gallery import make_gallery
from dyndet_bench.sweep.paper import check_paper
from dyndet_bench.sweep.plan import SweepPlan
from dyndet_bench.sweep.record import FILE_NAME, Accuracy, InputRule, Point, RouteLatencies, Sweep
from dyndet_client.errors import ServerUnreachableError

Route = Literal["easy", "hard"]

_ROUTES: tuple[Route, ...] = get_args(Route)
_ROUTE_ROUNDS = 2
_LONGEST_NAME, _LONGEST_REASON, _MOST_NAMES = 200, 2000, 10_000
"""characters and class names; what a server says is cut"""


def sweep(
    url: str,
    output: Path,
    *,
    images: Path,
    model: str = "dyndet",
    plan: SweepPlan | None = None,
    accuracy: Callable[[Sequence[float]], Sequence[Accuracy]] | None = None,
    accuracy_data: str | None = None,
    truth: Mapping[Path, Objects] | None = None,
    points: Sequence[Point] = (),
    fresh: bool = False,
    subject: Mapping[str, object] | None = None,
    metrics_url: str | None = None,
    progress: Progress = silent,
) -> Sweep:
    """Measure the detector at `url` with perf_analyzer, and write `sweep.json`, raw outputs and images to `output`.

    The cells are measured in turn, once per repetition, so all of them see the machine fast and slow. Each run is
    stored as soon as it is done. A sweep that is started again within a day continues where it stopped, unless `fresh`
    is set; `subject` is what its runs depend on beside the server's configuration. A run that fails is tried again
    once; then its cell's record has the reason. `accuracy` returns the average precision of the thresholds. `truth`
    has labelled objects by the resolved path of the image's file, for the gallery.
    `report.write_report` writes the reports. `metrics_url` is for a detector of the topology `fused`; by default it is
    port 8002 of the server.

    Raises ServerError if the server dies, after the measurements so far are written; InputError, MissingExtraError.
    """
    plan = plan or SweepPlan()
    perf_analyzer = find_perf_analyzer()
    with Served(url, model, metrics_url=metrics_url) as served:
        files = _draw(pictures_in(images), plan)
        letterboxed = read_letterboxed(files, served.detector.fit)
        _check_output(output)
        served.warm_up()
        progress("compute difficulties", 0, len(letterboxed))
        counter = itertools.count(1)
        difficulties = served.difficulties(
            letterboxed, lambda: progress("compute difficulties", next(counter), len(letterboxed))
        )
        paper = () if served.is_pair() else check_paper()  # which is about dynamic detectors
        thresholds = _thresholds(plan, difficulties)
        accuracies = () if accuracy is None else tuple(accuracy(thresholds))
        gallery = make_gallery(served, files, difficulties, output, middle=_middle(points, difficulties), truth=truth)
        with Workload(letterboxed) as workload:
            journals = JournalFolder(folder=output / RAW_FOLDER, fresh=fresh, subject=subject or {})
            rounds = functools.partial(Rounds, served, perf_analyzer, workload, journals=journals)
            alone = rounds()
            routes, missing_routes = _routes(alone, progress)
            pictures = len(letterboxed)
            cells = cells_of(thresholds, plan.loads, rounds, output, pictures=pictures, requests=plan.requests)
            death = _measure(cells, plan.repetitions, progress)
        described = circumstances(perf_analyzer=perf_analyzer.version, **({} if death else served.versions()))
    if death is None and not any(cell.runs for cell in cells):
        raise ServerError(f"no cell could be measured; the first says: {cells[0].failures[0]}")
    used = [alone, *(one for cell in cells for one in (cell.rounds, cell.due) if one is not None)]
    record = Sweep(
        model=printable(model, limit=_LONGEST_NAME),
        url=printable(url),
        bundle_sha256=served.bundle_sha256,
        class_names=tuple(
            printable(name, limit=_LONGEST_NAME) or "?" for name in served.detector.class_names[:_MOST_NAMES]
        ),
        input_size=served.detector.input_size,
        fit=InputRule.of(served.detector.fit),
        images=printable("/".join(images.resolve().parts[-2:])),
        image_count=len(letterboxed),
        repetitions=plan.repetitions,
        cells=tuple(cell.record() for cell in cells),
        routes=routes,
        difficulties=tuple(float(value) for value in difficulties),
        accuracy=accuracies,
        accuracy_data=printable(accuracy_data) if accuracies and accuracy_data is not None else None,
        points=tuple(points),
        paper=paper,
        gallery=gallery,
        missing_routes=None if missing_routes is None else printable(missing_routes, limit=_LONGEST_REASON),
        replayed=Replayed.together(one.replayed for one in {id(one): one for one in used}.values()),
        circumstances=described,
    )
    with whole_file(output / FILE_NAME) as temporary:
        temporary.write_text(record.model_dump_json(indent=1) + "\n")
    if death is not None:
        raise ServerError(f"{death}; the runs so far are in {output}, and the same command continues there") from death
    return record


def _measure(cells: Sequence[CellRuns], repetitions: int, progress: Progress) -> ServerUnreachableError | None:
    """Measure each cell once per repetition; the error that ended it all, if any."""
    step, total = "measure cells", len(cells) * repetitions
    progress(step, 0, total)
    done = 0
    for repetition in range(repetitions):
        for cell in cells[:: 1 if repetition % 2 == 0 else -1]:
            try:
                cell.measure(repetition + 1)
            except ServerUnreachableError as error:
                for open_cell in cells:
                    left = repetitions - len(open_cell.runs) - len(open_cell.failures)
                    open_cell.failures += [str(error)] * left
                return error
            except DyndetError as error:
                cell.failures.append(str(error))
            done += 1
            progress(step, done, total)
    return None


def _routes(rounds: Rounds, progress: Progress) -> tuple[dict[Route, RouteLatencies], str | None]:
    """Latencies of single requests down each route, one at a time; empty, with the reason, if this fails twice.

    Raises ServerUnreachableError if the server is gone.
    """
    step, total = "measure both routes", 2 * _ROUTE_ROUNDS
    progress(step, 0, total)
    counter = itertools.count(1)
    ends = (ALL_EASY, ALL_HARD)

    def one_round() -> Round:
        return rounds.measure(ends, lambda: progress(step, min(next(counter), total), total), latencies_of=ends)

    try:
        measured = [try_twice(one_round) for _ in range(_ROUTE_ROUNDS)]
    except (ServerUnreachableError, InputError, MissingExtraError):
        raise
    except DyndetError as error:
        return {}, str(error)
    routes: dict[Route, RouteLatencies] = {}
    for name, runs in zip(_ROUTES, zip(*measured, strict=True), strict=True):
        quantiles = np.quantile(pooled(runs), np.linspace(0, 1, 101), method="inverted_cdf")
        routes[name] = RouteLatencies(
            quantiles_ms=tuple(round(float(value), 4) for value in quantiles),
            mean_ms=MEAN.of(runs),
            requests=sum(run.requests for run in runs),
            repeats=sum(run.repeats for run in runs),
        )
    return routes, None


def _draw(files: Sequence[Path], plan: SweepPlan) -> list[Path]:
    order = np.random.default_rng(plan.seed).permutation(len(files))[: plan.max_images]
    return [files[index] for index in order]


def _thresholds(plan: SweepPlan, difficulties: FloatArray) -> list[float]:
    if not np.isfinite(difficulties).any():
        raise ServerError("the served model gives no image a difficulty (all NaN); its router is broken")
    asked = [threshold_for_easy_share(difficulties, 1 - share) for share in plan.hard_shares]
    return sorted({*asked, *plan.thresholds}, reverse=True)


def _middle(points: Sequence[Point], difficulties: FloatArray) -> float:
    """The threshold whose neighbours are the borderline images."""
    return points[0].threshold if points else float(np.nanmedian(difficulties))


def _check_output(output: Path) -> None:
    own = (FILE_NAME, RAW_FOLDER)
    if output.is_dir() and any(output.iterdir()) and not any((output / name).exists() for name in own):
        raise InputError(f"{output} holds files that do not belong to a sweep; give another --output")
    try:
        (output / RAW_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror})") from error
