"""One run of perf_analyzer: one process, one model, one load."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError, ServerError
from dynamicdet.records import read_bytes
from dynamicdet.text import printable
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.perf_analyzer import PerfAnalyzer
from dyndet_bench.measuring.perf_process import LostRequestsError, run_process

PERCENTILES = (50, 90, 95, 99)

MOST_REPEATS = 3
"""of a run that lost requests"""
_LARGEST_TABLE, _LARGEST_EXPORT = 1 << 20, 8 << 30
"""bytes; an export has every pixel that was sent"""
_LONGEST_US, _LONGEST_REASON = 1e12, 300
"""microseconds of a request, characters of an error"""
_RATE_THREADS = 16
"""connections that perf_analyzer opens to keep a request rate"""


@dataclass(frozen=True, kw_only=True)
class PerfRun:
    """The result of perf_analyzer. Latencies are those of requests, in milliseconds, as the client saw them."""

    mean_ms: float
    percentiles_ms: dict[int, float]
    throughput_per_s: float
    """images; in a closed loop it follows from Little's law, at a request rate it is that rate

    perf_analyzer 2.51 itself divides a counted run by whole seconds: for 24 requests of 13.9 ms it prints 23.8/s.
    """
    latencies_ms: FloatArray | None
    """(requests,) if they were requested"""
    repeats: int = 0
    """tries before this one that hung or lost requests"""


def perf_run(
    perf_analyzer: PerfAnalyzer,
    *,
    address: str,
    model: str,
    input_data: Path,
    folder: Path,
    load: Load,
    requests: int,
    export_latencies: bool = False,
    keep: Path | None = None,
    timeout_s: float = 900.0,
    shared_memory_bytes: int | None = None,
    boxes_alone: bool = False,
    check_alive: Callable[[], object] = lambda: None,
    before_try: Callable[[], object] = lambda: None,
) -> PerfRun:
    """Send `requests` requests of the entries of a file for `--input-data`, in their order; `folder` takes its output.

    At a request rate, perf_analyzer counts from when a request was really sent. This hides how long it waited to be
    sent, which `open_loop` shows. `export_latencies` also returns the latency of each request. perf_analyzer then
    writes every pixel that it sent into its export: some 60 ms and 17 MB of its memory per 320 x 320 image, after the
    measurement. `keep` is a path without suffix for copies of its table (.csv) and its printed output (.txt).
    perf_analyzer asks for every output; with `boxes_alone`, a detector leaves out its masks, as for most clients.
    `shared_memory_bytes` sends inputs through system shared memory and reserves that many bytes for the outputs. If a
    run fails, `check_alive` is called and can raise the server's own error.

    perf_analyzer can hang or lose requests because they were answered before it was ready to record them. It is then
    ended and the run repeated, up to three times. Such a try has sent all its requests. `before_try` is called before
    each try: what a server counts from then on belongs to that try. `timeout_s` limits a try.

    Raises ServerError if the server fails or dies, the output cannot be read, or each try loses requests.
    """
    if not load.open and requests < load.concurrency:
        raise InputError(
            f"{requests} requests cannot keep a concurrency of {load.concurrency} busy; "
            f"give at least {load.concurrency}"
        )
    what = f"model {model!r} at {address}"
    arguments = ["-m", model, "-u", address, "-i", "grpc", "--input-data", str(input_data), *_load_options(load)]
    arguments += ["--request-count", str(requests), "--warmup-request-count", str(warm_up_requests(load))]
    if boxes_alone:
        arguments += ["--request-parameter", "dyndet_masks:false:bool"]
    if shared_memory_bytes is not None:
        arguments += ["--shared-memory", "system", "--output-shared-memory-size", str(shared_memory_bytes)]

    def one_try(repeats: int) -> PerfRun:
        table = folder / f"{uuid4().hex}.csv"
        export = folder / f"{uuid4().hex}.json"  # perf_analyzer refuses a file that exists
        files = ["-f", str(table), "--verbose-csv"]
        files += ["--profile-export-file", str(export)] if export_latencies else []
        try:
            said = run_process(
                perf_analyzer, [*arguments, *files], what=what, timeout_s=timeout_s, check_alive=check_alive
            )
            row = read_table(table)
            latencies = read_profile_export(export) if export_latencies else None
            if latencies is not None and latencies.size != requests:
                raise LostRequestsError(f"perf_analyzer has latencies of only {latencies.size} of {requests} requests")
            if keep is not None:
                shutil.copyfile(table, keep.with_name(f"{keep.name}.csv"))
                keep.with_name(f"{keep.name}.txt").write_text(said)
            return _as_run(row, load, latencies, repeats)
        finally:
            table.unlink(missing_ok=True)
            export.unlink(missing_ok=True)

    for repeats in range(MOST_REPEATS + 1):
        before_try()
        try:
            return one_try(repeats)
        except LostRequestsError as error:
            check_alive()
            lost = error
    raise ServerError(
        f"{lost}, the last of {MOST_REPEATS + 1} tries: requests were answered before it was ready to record them; "
        "measure again when the machine is less busy"
    ) from lost


def repeats_text(repeats: int) -> str:
    """A sentence for the user about repeated measurements; empty if there were none."""
    if not repeats:
        return ""
    times = "once" if repeats == 1 else f"{repeats} times"
    return f"perf_analyzer hung or lost requests {times}; these measurements were repeated."


def _as_run(row: dict[str, float], load: Load, latencies_ms: FloatArray | None, repeats: int) -> PerfRun:
    mean_ms = row["Avg latency"] / 1e3
    return PerfRun(
        mean_ms=mean_ms,
        percentiles_ms={percent: row[f"p{percent} latency"] / 1e3 for percent in PERCENTILES},
        throughput_per_s=load.batch * (load.request_rate or 1e3 * load.concurrency / mean_ms),
        latencies_ms=latencies_ms,
        repeats=repeats,
    )


def warm_up_requests(load: Load) -> int:
    """Requests that `perf_run` sends before those that count: one per connection, whose first request is slower.

    With fewer of them than connections, perf_analyzer 2.51 never ends. After them, the cycle through the images starts
    again.
    """
    return _RATE_THREADS if load.open else load.concurrency


def _load_options(load: Load) -> tuple[str, ...]:
    batch = ("-b", str(load.batch))
    if load.request_rate is not None:
        rate = ("--request-rate-range", f"{load.request_rate:g}", "--request-distribution", "poisson")
        return (*batch, *rate, "--max-threads", str(_RATE_THREADS))
    return (*batch, "--concurrency-range", str(load.concurrency))


def read_table(path: Path) -> dict[str, float]:
    """The one row of a CSV file of perf_analyzer, by column. Raises ServerError if it is not as expected."""
    try:
        lines = _read(path, _LARGEST_TABLE).decode().splitlines()
        (row,) = csv.DictReader(line for line in lines if line.strip())
        found = {key: float(value) for key, value in row.items() if key and value}
    except (ValueError, TypeError, csv.Error) as error:
        raise ServerError(f"perf_analyzer wrote no readable table ({_reason(error)})") from error
    for column in ("Avg latency", *(f"p{percent} latency" for percent in PERCENTILES)):
        if not 0 < found.get(column, 0) <= _LONGEST_US:
            names = printable(", ".join(found), limit=_LONGEST_REASON)
            raise ServerError(f"perf_analyzer's table lacks a positive {column!r}; it has {names}")
    return found


def read_profile_export(path: Path) -> FloatArray:
    """Latency of each request in milliseconds, (requests,), from perf_analyzer's `--profile-export-file`.

    Raises ServerError if the file is not as expected: with random float inputs, empty exports have been seen.
    """
    try:
        # The file has every sent pixel as decimal text. Nothing needs it, and parsing it takes longer than measuring.
        text = re.sub(rb"\[[-0-9.eE+,\s]{200,}\]", b"[]", _read(path, _LARGEST_EXPORT))
        (experiment,) = json.loads(text)["experiments"]
        times = [(sent["response_timestamps"][-1], sent["timestamp"]) for sent in experiment["requests"]]
        latencies: FloatArray = np.array([float(end - start) for end, start in times], np.float64) / 1e6
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise ServerError(f"perf_analyzer wrote no readable profile ({_reason(error)})") from error
    if latencies.size == 0 or not bool(np.all((latencies > 0) & (latencies <= _LONGEST_US / 1e3))):
        raise ServerError("perf_analyzer's profile holds no requests, or requests that took no time")
    return latencies


def _read(path: Path, largest: int) -> bytes:
    """The content of a file of perf_analyzer. Raises ValueError if there is none that can be read."""
    return read_bytes(path, advice="perf_analyzer should have written it", largest=largest)


def _reason(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}", limit=_LONGEST_REASON)
