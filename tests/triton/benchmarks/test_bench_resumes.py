"""Benches that are interrupted, or lose a measurement, on the real server with the real perf_analyzer."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dynamicdet.aliases import Progress, silent
from dyndet_bench.comparisons import overhead, serving
from dyndet_bench.comparisons.serving import MIXES, ServingRecord, measure_serving
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.perf_analyzer import PerfAnalyzer, find_perf_analyzer
from dyndet_builder.cli import dyndet, run
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.triton import TritonServer
from tests.support.programs.processes import started
from tests.support.toy_bundle import image, write_toy_bundle


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        Image.fromarray(image(red=60 * number, seed=number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions(bls_instances=1))


@pytest.fixture(scope="module")
def toy(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository) as server:
        yield server


class _Program:
    """The real perf_analyzer behind a script that counts its starts, and crashes where it is told to."""

    def __init__(self, folder: Path) -> None:
        real = find_perf_analyzer()
        self._starts, self._broken = folder / "starts", folder / "broken"
        self._starts.touch()
        path = folder / "perf_analyzer"
        path.write_text(
            f"#!/bin/sh\n"
            f"printf . >> {self._starts}\n"
            f'if [ -f {self._broken} ] && echo "$@" | grep -qF -e "$(cat {self._broken})"; then\n'
            f"  echo Request concurrency: 2; kill -SEGV $$\n"
            f"fi\n"
            f'exec {real.path} "$@"\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.itself = PerfAnalyzer(path=path, environment=real.environment, version=real.version)

    def breaks(self, arguments: str | None) -> None:
        """End at once where the arguments contain this."""
        self._broken.unlink(missing_ok=True)
        if arguments is not None:
            self._broken.write_text(arguments)

    def starts(self) -> int:
        """So far."""
        return len(self._starts.read_text())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Program:
    """What the benches measure with."""
    made = _Program(tmp_path)
    for module in (serving, overhead):
        monkeypatch.setattr(module, "find_perf_analyzer", lambda: made.itself)
    return made


def _overhead(server: TritonServer, repository: Path, pictures: Path, folder: Path, rounds: int) -> list[str]:
    words = ["bench", "overhead", str(repository), "--url", server.grpc_url, "--images", str(pictures)]
    return [*words, "--model", "toy", "--rounds", str(rounds), "--measurements", str(folder), "--json"]


def test_a_measurement_that_fails_twice_is_listed_and_the_same_command_makes_it(
    toy: TritonServer,
    repository: Path,
    pictures: Path,
    program: _Program,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "measurements"
    command = _overhead(toy, repository, pictures, folder, rounds=1)
    program.breaks("input-1.json")  # that of the hard route
    assert run(dyndet, command) == 6
    told = capsys.readouterr()
    record = json.loads(told.out)
    assert (record["easy"]["rounds"], record["hard"], record["replayed"]) == (1, None, None)
    assert [one["what"] for one in record["missing"]] == ["hard, round 1"]
    assert "it was ended by SIGSEGV without its results" in record["missing"][0]["reason"]
    assert "1 of 2 measurements is missing" in told.err
    assert program.starts() == 1 + 2 + record["repeats"]

    program.breaks(None)
    assert run(dyndet, command) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["easy"]["rounds"], record["hard"]["rounds"], record["missing"]) == (1, 1, [])
    assert (record["replayed"]["measurements"], _recorded(folder)) == (1, 2)
    assert run(dyndet, [*command, "--fresh"]) == 0
    assert json.loads(capsys.readouterr().out)["replayed"] is None
    assert _recorded(folder) == 4


def test_a_killed_bench_loses_only_the_measurement_under_way(
    toy: TritonServer,
    repository: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "measurements"
    command = _overhead(toy, repository, pictures, folder, rounds=3)
    code = "from dyndet_builder.cli import main; main()"
    with started([sys.executable, "-c", code, *command], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while _recorded(folder) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    before = _recorded(folder)
    assert run(dyndet, command) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["replayed"]["measurements"] == before
    assert _recorded(folder) == 6  # none was made twice
    assert record["easy"]["rounds"] == record["hard"]["rounds"] == 3


def _recorded(folder: Path) -> int:
    return sum(file.read_text().count('"measured"') for file in folder.glob("*.jsonl"))


def test_a_comparison_of_ways_to_serve_continues_beside_the_floor(
    toy: TritonServer, repository: Path, pictures: Path, program: _Program, tmp_path: Path
) -> None:
    graphs, folder = read_rendered(repository).cpu_graphs, tmp_path / "measurements"

    def measure(progress: Progress = silent) -> ServingRecord:
        return measure_serving(
            toy.grpc_url,
            graphs=graphs,
            images=pictures,
            detectors={"bls": "toy"},
            concurrency=2,
            rounds=1,
            hard_share=0.5,
            journals=JournalFolder(folder=folder),
            progress=progress,
        )

    def interrupt(_step: str, done: int, _of: int) -> None:
        if done == 5:  # after floor, pool and bls of the first mix, and floor and pool of the second
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(interrupt)
    assert _recorded(folder) == 5
    program.breaks("--concurrency-range 2")
    record = measure()
    assert record.replayed is not None and record.replayed.measurements == 5
    assert _recorded(folder) == 9 + 3 + 1  # both loads, and the floor of the second mix again, beside its bls
    assert {one.what for one in record.missing} == {f"bls, {mix}, concurrency 2, round 1" for mix in MIXES}
    for mix in MIXES:
        alone, together = record.cell("bls", mix, 1), record.cell("bls", mix, 2)
        assert alone is not None and together is not None
        assert alone.ratio is not None and (together.rounds, together.p50_ms) == (0, None)
