"""Measurements of others: whatever their files and servers say, it is read as it is meant or refused in a sentence."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dynamicdet.errors import DyndetError, InputError, MissingExtraError, ServerError
from dyndet_bench.comparisons.systems import Figures
from dyndet_bench.measuring.counters import RouteCounts, ServerCounters, ServerTimes, stage_models
from dyndet_bench.measuring.journal import Journal, JournalFolder
from dyndet_bench.measuring.machine import Circumstances, query_gpus
from dyndet_bench.measuring.measure import PERCENTILES, Run
from dyndet_bench.measuring.own_metrics import read_metrics
from dyndet_bench.measuring.perf_run import read_profile_export, read_table
from dyndet_bench.measuring.round_journal import RoundJournal
from dyndet_bench.report.facts import Facts
from dyndet_bench.report.frontier import read_frontier
from dyndet_bench.report.tables import cells_csv
from dyndet_bench.report.write import HTML_NAME, write_report
from dyndet_bench.sweep.compare import compare_sweeps
from dyndet_bench.sweep.record import Accuracy, Cell, Latency, Picture, Point, RouteLatencies, Split, Sweep, read_sweep
from dyndet_builder.cli import dyndet, run
from tests.support.hostility.damage import ESCAPE, damaged_bytes, damaged_json, damaged_words

EACH = 10
"""damages per example of hypothesis"""
many = settings(max_examples=100, phases=[Phase.explicit, Phase.generate], database=None)
seeds = st.integers(0, 2**32)


def _latency(mean_ms: float) -> Latency:
    return Latency(mean_ms=mean_ms, p50_ms=mean_ms, p90_ms=mean_ms + 1, p95_ms=mean_ms + 2, p99_ms=mean_ms + 3)


def _cell(threshold: float, **load: Any) -> Cell:
    return Cell(
        **{"threshold": threshold, "concurrency": None, "request_rate": None, "batch": 1, "requests": 50} | load,
        throughput_per_s=90.0,
        latency=_latency(10.0 + 3 * (1 - threshold)),
        mean_low_ms=9.5,
        mean_high_ms=14.0,
        hard_share=1 - threshold,
        split=Split(queue_ms=1, compute_ms=7, routing_ms=1, network_ms=1),
        raw=("raw/t1-c1-b1-1.csv",),
    )


ROUTE = RouteLatencies(quantiles_ms=tuple(8 + level / 50 for level in range(101)), mean_ms=9.0, requests=50)
SWEEP = Sweep(
    model="street",
    url="127.0.0.1:8001",
    bundle_sha256="0" * 64,
    class_names=("cat", "a dog"),
    input_size=320,
    images="val/images",
    image_count=40,
    repetitions=2,
    cells=(*(_cell(at, concurrency=1) for at in (1.0, 0.5, 0.0)), _cell(0.5, request_rate=20.0)),
    routes={"easy": ROUTE, "hard": ROUTE},
    difficulties=(0.1, math.nan, 0.9),
    accuracy=tuple(Accuracy(threshold=at, hard_share=1 - at, ap=40 - at, ap50=60 - at) for at in (1.0, 0.5, 0.0)),
    points=(Point(name="fast", threshold=0.5, target="12ms", hard_share=0.4),),
    gallery=(Picture(role="easiest", difficulty=0.1, easy_file="pictures/a.jpg", hard_file="b.jpg", objects="1 cat"),),
    circumstances=Circumstances(
        machine={"cpu": "A"}, versions={"triton": "2.51.0"}, command="dyndet", date="2026-01-01T10:00:00+00:00"
    ),
)


def _texts_and_numbers(value: Any) -> Iterator[str | float]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from (key, *_texts_and_numbers(one))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts_and_numbers(one)
    elif isinstance(value, str | float | int):
        yield value


def _read_or_refuse(read: Callable[[], Any], *refusals: type[DyndetError]) -> Any:
    """What a reader returns; None for a refusal, which is a short printable sentence."""
    try:
        return read()
    except refusals as error:
        assert str(error).isprintable() and 10 < len(str(error)) < 1200, repr(str(error))
        return None


@many
@given(seed=seeds)
def test_a_damaged_sweep_is_refused_or_holds_only_what_can_be_compared_and_reported(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / f"sweep-{os.getpid()}.json"
    for number in range(EACH):
        file.write_bytes(damaged_json(SWEEP.model_dump_json(), seed + number))
        sweep = _read_or_refuse(lambda: read_sweep(file), InputError)
        if sweep is None:
            continue
        for value in _texts_and_numbers(sweep.model_dump(exclude={"difficulties"})):
            assert value.isprintable() if isinstance(value, str) else math.isfinite(value)
        for name in (*(name for cell in sweep.cells for name in cell.raw), *_pictures(sweep)):
            assert ".." not in Path(name).parts and not Path(name).is_absolute()
        _read_or_refuse(lambda sweep=sweep: compare_sweeps(SWEEP, sweep), InputError)
        assert cells_csv(Facts(sweep)).count("\n") == len(sweep.cells) + 1


def _pictures(sweep: Sweep) -> list[str]:
    return [name for one in sweep.gallery for name in (one.easy_file, one.hard_file)]


def test_what_a_sweep_writes_is_read_back_with_its_unknown_difficulties(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(SWEEP.model_dump_json())
    read = read_sweep(tmp_path)
    assert np.isnan(read.difficulties[1]) and read.model_dump_json() == SWEEP.model_dump_json()


@many
@given(seed=seeds)
def test_a_damaged_table_is_refused_or_holds_finite_cells_once(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / f"cells-{os.getpid()}.csv"
    for number in range(EACH):
        file.write_bytes(damaged_words(cells_csv(Facts(SWEEP)), seed + number, separators=",\n\r"))
        points = _read_or_refuse(lambda: read_frontier(file), InputError)
        for point in points or ():
            assert 0 <= point.threshold <= 1 and 0 <= point.hard_share <= 1
            assert 0 < point.low_ms <= point.high_ms <= 1e9 and 0 < point.mean_ms <= 1e9 and abs(point.ap) <= 100


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: [*rows, rows[1]], "its cell is there twice"),
        (lambda rows: [rows[0] + ",secret", *(row + ",1" for row in rows[1:])], "is not the table of a sweep"),
        (lambda rows: [rows[0] + ",ap", *(row + ",1" for row in rows[1:])], "is not the table of a sweep"),
        (lambda rows: [rows[0], rows[1].replace("10.0", "nan", 1), *rows[2:]], "damaged in line 2: mean_ms"),
        (lambda rows: [rows[0], rows[1].replace("10.0", "-3", 1), *rows[2:]], "damaged in line 2: mean_ms"),
        (lambda rows: [*rows, "1.0,1"], "2 values for"),
    ],
)
def test_a_table_with_such_rows_is_no_table_of_a_sweep(
    change: Callable[[list[str]], list[str]], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cells_csv(Facts(SWEEP)).splitlines()
    (tmp_path / "cells.csv").write_text("\n".join(change(rows)) + "\n")
    assert run(dyndet, ["bench", "plot", str(tmp_path), "-o", str(tmp_path / "plot.svg")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "plot.svg").exists()


def _run(threshold: float) -> Run:
    return Run(
        threshold=threshold,
        requests=3,
        mean_ms=12.5,
        percentiles_ms={percent: 10.0 + percent for percent in PERCENTILES},
        throughput_per_s=80.0,
        counts=RouteCounts(total=4, hard=1),
        times=ServerTimes(requests=4, inside_ms=40.0, queue_ms=1.0, compute_ms=30.0),
        latencies_ms=np.array([11.0, 12.0, 13.0]),
    )


def _rounds(folder: Path) -> RoundJournal:
    return RoundJournal(JournalFolder(folder=folder, newest_s=1e6), {"server": "a"})


@many
@given(seed=seeds)
def test_a_damaged_journal_gives_whole_measurements_or_none(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"journal-{os.getpid()}"
    if not folder.exists():
        _rounds(folder).add([_run(1.0), _run(0.25)])
        (next(folder.glob("*.jsonl"))).rename(folder / "whole")
    line = (folder / "whole").read_text().strip()
    file = next(folder.glob("*.json")).with_suffix(".jsonl")
    file.write_bytes(b"\n".join(damaged_json(line, seed + number) for number in range(EACH)))
    journal = _rounds(folder)
    while (found := journal.take(((1.0, True), (0.25, True)))) is not None:
        for one in found:
            assert one.latencies_ms is not None
            numbers = [one.mean_ms, one.throughput_per_s, *one.percentiles_ms.values(), *one.latencies_ms.tolist()]
            assert all(0 < value < math.inf for value in numbers) and 0 <= one.counts.hard <= one.counts.total


def test_a_journal_of_another_bench_has_only_possible_values(tmp_path: Path) -> None:
    folder = JournalFolder(folder=tmp_path)
    for damage in (0.0, -1.0, math.nan, math.inf, 1e300):
        folder.open({}, Figures).add("q", Figures(p50_ms=damage, p99_ms=2.0, throughput_per_s=3.0))
    folder.open({}, Figures).add("q", Figures(p50_ms=1.0, p99_ms=2.0, throughput_per_s=3.0))
    journal = folder.open({}, Figures)
    found = journal.take("q")
    assert found is not None and found.measured.p50_ms == 1.0 and journal.take("q") is None


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "large"])
@pytest.mark.parametrize("reader", ["sweep", "cells", "journal", "table", "profile"])
def test_something_else_in_place_of_a_file_is_named_at_once(kind: str, reader: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path, {}, Figures, newest_s=60)
    file = {"sweep": tmp_path / "sweep.json", "cells": tmp_path / "cells.csv", "journal": journal.path}.get(
        reader, tmp_path / "file"
    )
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link":
        file.symlink_to(tmp_path / "none" if reader != "journal" else "/dev/null")
    else:
        with file.open("wb") as sparse:
            sparse.truncate(10 << 30)
    before = sorted(tmp_path.iterdir())
    readers: dict[str, Callable[[], Any]] = {
        "sweep": lambda: read_sweep(file),
        "cells": lambda: read_frontier(file),
        "journal": lambda: Journal(tmp_path, {}, Figures, newest_s=60),
        "table": lambda: read_table(file),
        "profile": lambda: read_profile_export(file),
    }
    refusal = ServerError if reader in ("table", "profile") else InputError
    with pytest.raises(refusal) as caught:
        readers[reader]()
    assert str(caught.value).isprintable() and file.name in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


TABLE = (
    "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency\n"
    "1,83.1,27,11900,12800,13100,14400,12030\n"
)
PROFILE = json.dumps(
    {"experiments": [{"requests": [{"timestamp": 10**18, "response_timestamps": [10**18 + 12_000_000]}] * 3}]}
)
METRICS = (
    "# HELP dyndet_routed_total Images\n# TYPE dyndet_routed_total counter\n"
    'dyndet_routed_total{model="toy",route="easy"} 5\ndyndet_routed_total{model="toy",route="hard"} 7\n'
)
STATISTICS = json.dumps(
    {"inference_count": "12", "inference_stats": {"success": {"count": "3", "ns": "9000"}, "queue": {"ns": "1"}}}
)
CONFIG = json.dumps({"name": "toy", "parameters": {"dyndet_stages": {"string_value": '{"head1": "other_head1"}'}}})


@many
@given(seed=seeds)
def test_what_perf_analyzer_wrote_is_positive_or_refused(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / f"perf-{os.getpid()}"
    for number in range(EACH):
        file.write_bytes(damaged_words(TABLE, seed + number, separators=",\n"))
        row = _read_or_refuse(lambda: read_table(file), ServerError)
        assert row is None or 0 < row["Avg latency"] < math.inf
        file.write_bytes(damaged_json(PROFILE, seed + number))
        times = _read_or_refuse(lambda: read_profile_export(file), ServerError)
        assert times is None or bool(np.all((times > 0) & np.isfinite(times)))


@many
@given(seed=seeds)
def test_what_a_foreign_server_counts_is_a_count_or_refused(seed: int) -> None:
    for number in range(EACH):
        metrics = damaged_words(METRICS, seed + number, separators='{}=", \n')
        try:
            values = read_metrics(metrics, ("dyndet_routed_total",), model="toy")
            assert all(0 <= value < 1e16 for value in values["dyndet_routed_total"].values())
        except ValueError:
            pass
        entry = _json_or_none(damaged_json(STATISTICS, seed + number))
        counters = ServerCounters("toy", lambda _, entry=entry: [entry])
        counts = _read_or_refuse(counters.counts, ServerError)
        times = _read_or_refuse(counters.times, ServerError)
        assert (counts is None or counts.total >= 0) and (times is None or 0 <= times.inside_ms < math.inf)
        config = _json_or_none(damaged_json(CONFIG, seed + number))
        if isinstance(config, dict):
            stages = _read_or_refuse(lambda config=config: stage_models(config), ServerError)
            assert stages is None or all(name.isprintable() for name in stages.values())


def _json_or_none(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def test_a_sweep_embeds_no_picture_from_outside_its_folder(tmp_path: Path) -> None:
    from PIL import Image

    folder, outside = tmp_path / "sweep", tmp_path / "outside"
    (folder / "pictures").mkdir(parents=True)
    outside.mkdir()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(outside / "private.jpg")
    (folder / "pictures" / "link.jpg").symlink_to(outside / "private.jpg")
    (folder / "way").symlink_to(outside)
    os.mkfifo(folder / "pipe.jpg")
    for name in ("pictures/link.jpg", "way/private.jpg", "pipe.jpg"):
        picture = SWEEP.gallery[0].model_copy(update={"easy_file": name, "hard_file": name})
        write_report(SWEEP.model_copy(update={"gallery": (picture,)}), folder)
        assert "data:image/jpeg" not in (folder / HTML_NAME).read_text(), name
    content = json.loads(SWEEP.model_dump_json())
    for name in ("../outside/private.jpg", "/etc/passwd", "a/b/c.jpg", "pictures/..", "pictures//a", ESCAPE):
        content["gallery"][0]["easy_file"] = name
        (folder / "sweep.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"gallery\.0\.easy_file"):
            read_sweep(folder)


def test_nvidia_smi_can_say_what_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for printed, status in ((b"\xff\x1b[31mGPU, 1.0, 2 MiB\n" * 1000, 0), (b"\xff\x1b]8;;x\x07 no GPU\n", 9)):
        (tmp_path / "said").write_bytes(printed)
        program.write_text(f'#!/bin/sh\ncat "{tmp_path}/said"; exit {status}\n')
        program.chmod(0o755)
        if status:
            with pytest.raises(MissingExtraError) as caught:
                query_gpus("name", "driver_version", "memory.total")
            assert str(caught.value).isprintable()
        else:
            gpus = query_gpus("name", "driver_version", "memory.total")
            assert len(gpus) <= 64 and all(value.isprintable() for gpu in gpus for value in gpu)


def test_damage_is_of_many_kinds() -> None:
    """The tests above prove nothing if most files stay whole."""
    whole = SWEEP.model_dump_json()
    damaged = [damaged_json(whole, seed) for seed in range(500)]
    assert len({*damaged}) > 400 and damaged.count(whole.encode()) < 50  # a value can be replaced by itself
    assert len({damaged_bytes(b"abc" * 50, seed) for seed in range(200)}) > 150
