"""One run of perf_analyzer: one process, one model, one load."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from dynamicdet.errors import DyndetError, InputError, ServerError
from dyndet_bench.load import Load
from dyndet_bench.perf_analyzer import PerfAnalyzer

FloatArray = npt.NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)

_RATE_THREADS = 16
"""connections that perf_analyzer opens to keep a request rate"""


@dataclass(frozen=True, kw_only=True)
class PerfRun:
    """What perf_analyzer found. Latencies are those of requests, in milliseconds, as the client saw them."""

    mean_ms: float
    percentiles_ms: dict[int, float]
    throughput_per_s: float
    """images; in a closed loop by Little's law, at a request rate the rate that was asked for

    What perf_analyzer 2.51 prints divides a counted run by whole seconds: for 24 requests of 13.9 ms 23.8 a second.
    """
    latencies_ms: FloatArray | None
    """(requests,) where they were asked for"""


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
    check_alive: Callable[[], object] = lambda: None,
) -> PerfRun:
    """Send `requests` requests of the entries of a file for `--input-data`, in their order; `folder` takes its output.

    At a request rate perf_analyzer counts from when a request was really sent, which hides how long it waited to be
    sent; `open_loop` does not. `export_latencies` also fetches the latency of each request. perf_analyzer then writes
    every pixel it sent into its export: some 60 ms and 17 MB of its memory per 320 x 320 picture, after the
    measurement. `keep` is a path without suffix, where its table (.csv) and what it printed (.txt) are kept.
    `shared_memory_bytes` sends inputs through system shared memory and reserves so much for the outputs. `check_alive`
    is called where a run failed, to raise the server's own error.

    Raises ServerError where the server fails or dies, or the output cannot be read.
    """
    if not load.open and requests < load.concurrency:
        raise InputError(f"{requests} requests cannot keep a concurrency of {load.concurrency} busy; give more of them")
    table = folder / f"{uuid4().hex}.csv"
    export = folder / f"{uuid4().hex}.json"  # perf_analyzer refuses a file that exists
    command = [
        str(perf_analyzer.path),
        *("-m", model, "-u", address, "-i", "grpc", "-b", str(load.batch)),
        *("--input-data", str(input_data)),
        *_load_options(load),
        *("--request-count", str(requests), "--warmup-request-count", str(warm_up_requests(load))),
        *("-f", str(table), "--verbose-csv"),
        *(("--profile-export-file", str(export)) if export_latencies else ()),
    ]
    if shared_memory_bytes is not None:
        command += ["--shared-memory", "system", "--output-shared-memory-size", str(shared_memory_bytes)]
    try:
        said = _run(command, perf_analyzer, f"model {model!r} at {address}", timeout_s, check_alive)
        row = read_table(table)
        mean_ms = row["Avg latency"] / 1e3
        if keep is not None:
            shutil.copyfile(table, keep.with_name(f"{keep.name}.csv"))
            keep.with_name(f"{keep.name}.txt").write_text(said)
        return PerfRun(
            mean_ms=mean_ms,
            percentiles_ms={percent: row[f"p{percent} latency"] / 1e3 for percent in PERCENTILES},
            throughput_per_s=load.batch * (load.request_rate or 1e3 * load.concurrency / mean_ms),
            latencies_ms=read_profile_export(export) if export_latencies else None,
        )
    finally:
        table.unlink(missing_ok=True)
        export.unlink(missing_ok=True)


def warm_up_requests(load: Load) -> int:
    """Requests that `perf_run` sends before those that count, one per connection, whose first request is slower.

    With fewer of them than connections perf_analyzer 2.51 never ends. The cycle through the pictures starts anew after
    them.
    """
    return _RATE_THREADS if load.open else load.concurrency


def _load_options(load: Load) -> tuple[str, ...]:
    if load.request_rate is not None:
        rate = ("--request-rate-range", f"{load.request_rate:g}", "--request-distribution", "poisson")
        return (*rate, "--max-threads", str(_RATE_THREADS))
    return ("--concurrency-range", str(load.concurrency))


def read_table(path: Path) -> dict[str, float]:
    """The one row of a CSV file of perf_analyzer, by column. Raises ServerError where it is not as expected."""
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(line for line in file if line.strip())]
        row = {key: float(value) for key, value in rows[0].items() if key and value}
    except (OSError, IndexError, ValueError) as error:
        raise ServerError(f"perf_analyzer wrote no readable table ({error})") from error
    for column in ("Avg latency", *(f"p{percent} latency" for percent in PERCENTILES)):
        if not row.get(column, 0) > 0:
            raise ServerError(f"perf_analyzer's table lacks a positive {column!r}; it has {', '.join(row)}")
    return row


def read_profile_export(path: Path) -> FloatArray:
    """Latency of each request in milliseconds, (requests,), from perf_analyzer's `--profile-export-file`.

    Raises ServerError where the file is not as expected: empty exports have been seen with random float inputs.
    """
    try:
        # Every pixel sent is in there as decimal text; nothing reads it, and parsing it takes longer than measuring.
        text = re.sub(rb"\[[-0-9.eE+,\s]{200,}\]", b"[]", path.read_bytes())
        (experiment,) = json.loads(text)["experiments"]
        times = [(sent["response_timestamps"][-1], sent["timestamp"]) for sent in experiment["requests"]]
        latencies: FloatArray = np.array([float(end - start) for end, start in times], np.float64) / 1e6
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ServerError(f"perf_analyzer wrote no readable profile ({type(error).__name__}: {error})") from error
    if latencies.size == 0 or not bool(np.all(latencies > 0)):
        raise ServerError("perf_analyzer's profile holds no requests, or requests that took no time")
    return latencies


def _run(
    command: list[str], perf_analyzer: PerfAnalyzer, what: str, timeout_s: float, check_alive: Callable[[], object]
) -> str:
    """What perf_analyzer printed."""
    with subprocess.Popen(
        command,
        env=perf_analyzer.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"{what} did not finish a measurement in {timeout_s:g} s") from error
        finally:
            if process.poll() is None:  # also on Ctrl-C
                process.kill()
    said = output.decode(errors="replace")
    # A run whose requests failed can end with status 0, and says so in its output alone.
    if process.returncode != 0 or re.search(r"^\s*(error|failed)\b", said, flags=re.IGNORECASE | re.MULTILINE):
        raise _failure(said, process.returncode, what, check_alive)
    return said


def _failure(said: str, status: int, what: str, check_alive: Callable[[], object]) -> DyndetError:
    try:
        check_alive()
    except DyndetError as error:
        return error
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # What a thread met says more than that threads failed.
    met = [line.partition("had error: ")[2] for line in lines if "had error: " in line]
    telling = met or [line for line in lines if re.match(r"(error|failed)", line, flags=re.IGNORECASE)] or lines[-1:]
    reason = telling[0] if telling else f"it printed nothing (exit status {status})"
    return ServerError(f"perf_analyzer could not measure {what}: {reason}")
