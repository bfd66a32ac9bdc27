"""Finds the instances, threads and batching with which a repository serves one load fastest, by a bounded search."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Progress, silent
from dynamicdet.cores import usable_cores
from dynamicdet.errors import InputError
from dynamicdet.files import scratch_folder
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.measuring.attempts import try_twice
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import Run
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.statistic import MEAN, THROUGHPUT, Statistic
from dyndet_bench.measuring.workload import Workload, read_letterboxed
from dyndet_builder.repository.fingerprint import repository_sha256
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer

_TOGETHER = 4
"""settings that one server serves at once"""
_DELAYS_US = (0, 500, 2000)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The values that are tuned. With `preferred_batch` 0, stages run their waiting requests one by one."""

    instances: int
    threads: int
    """of one instance on the CPU"""
    preferred_batch: int = 0
    queue_delay_us: int = 0

    def applied(self, options: RenderOptions) -> RenderOptions:
        """Options with these settings."""
        return replace(
            options,
            instances=self.instances,
            threads=self.threads,
            preferred_batches=(self.preferred_batch,) if self.preferred_batch else (),
            queue_delay_us=self.queue_delay_us,
        )

    def __str__(self) -> str:
        words = [f"{self.instances} x {self.threads or 'all'} threads"]
        if self.preferred_batch:
            words.append(f"batches of {self.preferred_batch} after {self.queue_delay_us} us")
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A setting and its measurements: the statistic, and also mean, p99 and throughput."""

    setting: Setting
    value: float
    mean_ms: float
    p99_ms: float
    throughput_per_s: float
    rounds: int
    repeats: int = 0
    """tries of perf_analyzer that hung or lost requests, and were made again"""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Result of `tune`, the settings in the order of their trials; `best` and `default` are from the last heat."""

    best: Tried
    default: Tried
    tried: tuple[Tried, ...]
    statistic: str
    load: str
    threshold: float
    written: bool
    """false if the repository had the best setting already"""
    replayed: Replayed | None = None
    """measurements of earlier runs of the same command"""


def tune(
    repository: Path,
    *,
    images: Path,
    model: str | None = None,
    load: Load | None = None,
    statistic: Statistic = MEAN,
    rounds: int = 3,
    max_images: int = 64,
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> Tuning:
    """Render a repository again with the settings that serve `load` best, measured on the embedded server.

    The search consists of heats of up to four settings. One server serves them at once, and they are measured in turn.
    The first heats try divisions of the cores (instances x threads). On a GPU, further heats try batch sizes and queue
    delays. The winner of a heat takes part in the next one. In the last heat, the winner is compared with a default
    rendering. The best setting has the smallest `statistic` (throughput: largest) at the repository's default
    threshold. If the repository has another setting, it is rendered again. Its operating points were measured on the
    old setting, so they are removed. `model` names the detector if the repository holds several; others stay as they
    are.

    With `journals`, each run is stored, and a search that is started again continues with those of the earlier one. A
    run that fails is tried again once. Then the search fails, because it decides by all of them.

    Raises InputError if dyndet did not render the repository, ServerError, MissingExtraError.
    """
    if rounds < 1 or max_images < 1:
        raise InputError(f"rounds and max_images must be at least 1, got {rounds} and {max_images}")
    load = load or Load(concurrency=8)
    rendered = read_rendered(repository, model=model)
    options, threshold = rendered.options, rendered.threshold
    find_perf_analyzer()
    if load.batch > options.max_batch:
        raise InputError(f"model {rendered.model!r} takes batches of at most {options.max_batch}, not of {load.batch}")
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("tune"))
        bundle = rendered.link_bundle(folder / "bundle")
        chosen = spread(pictures_in(images), max_images)
        workload = stack.enter_context(Workload(read_letterboxed(chosen, rendered.bundle.fit)))
        heats = _Heats(bundle, folder, options, load, statistic, threshold, workload, rounds, journals, progress)
        default = Setting(instances=RenderOptions().instances, threads=RenderOptions().threads)
        own = Setting(
            instances=options.instances,
            threads=options.threads,
            preferred_batch=max(options.preferred_batches, default=0),
            queue_delay_us=options.queue_delay_us,
        )
        best = heats.winner([own, default, *_divisions(usable_cores(), on_gpu=bool(options.gpus))])
        if options.gpus:
            best = heats.winner([best, *_batchings(best, options.max_batch)])
        final = {tried.setting: tried for tried in heats.run([best] if best == default else [best, default])}
        best = heats.better(final.values()).setting
        if best != own:
            measured = {"tuned_for": f"{statistic.name} at {load}", "tried": [asdict(tried) for tried in heats.tried]}
            render(bundle, repository, best.applied(options), chosen_by=measured)
    return Tuning(
        best=final[best],
        default=final[default],
        tried=tuple(heats.tried),
        statistic=statistic.name,
        load=str(load),
        threshold=threshold,
        written=best != own,
        replayed=heats.replayed,
    )


def _divisions(cores: int, *, on_gpu: bool) -> list[Setting]:
    """Instances x threads: the cores divided evenly, and twice as many threads as cores; on a GPU only instances."""
    if on_gpu:
        return [Setting(instances=count, threads=0) for count in (1, 2, 3, 4)]
    settings = []
    for instances in sorted({1, 2, max(1, cores // 2), cores}):
        for threads in sorted({max(1, cores // instances), min(cores, max(1, 2 * cores // instances))}):
            settings.append(Setting(instances=instances, threads=0 if threads == cores else threads))
    return settings


def _batchings(best: Setting, max_batch: int) -> list[Setting]:
    sizes = [size for size in (2, 4, 8, 16, 32) if size <= max_batch][-3:]
    return [
        replace(best, preferred_batch=size, queue_delay_us=delay)
        for size, delay in itertools.product(sizes, _DELAYS_US)
    ]


class _Heats:
    """Measures settings of one bundle against each other."""

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        options: RenderOptions,
        load: Load,
        statistic: Statistic,
        threshold: float,
        workload: Workload,
        rounds: int,
        journals: JournalFolder | None,
        progress: Progress,
    ) -> None:
        self.tried: list[Tried] = []
        self._bundle, self._folder, self._options = bundle, folder, options
        self._load, self._statistic, self._threshold = load, statistic, threshold
        self._workload, self._rounds = workload, rounds
        self._journals = journals
        self._progress = progress
        self._replayed: list[Replayed | None] = []
        self._number = 0

    @property
    def replayed(self) -> Replayed | None:
        """Measurements of an earlier search."""
        return Replayed.together(self._replayed)

    def winner(self, settings: Sequence[Setting]) -> Setting:
        """The best of any number of settings; the best so far is measured again with the next ones."""
        left = list(dict.fromkeys(settings))
        best = [left.pop(0)]
        while left:
            heat, left = [*best, *left[: _TOGETHER - 1]], left[_TOGETHER - 1 :]
            best = [self.better(self.run(heat)).setting]
        return best[0]

    def better(self, tried: Iterable[Tried]) -> Tried:
        """The one with the smallest latency, or the largest throughput."""
        sign = -1 if self._statistic == THROUGHPUT else 1
        return min(tried, key=lambda candidate: sign * candidate.value)

    def run(self, settings: Sequence[Setting]) -> list[Tried]:
        """Serve some settings at once and measure them in turn."""
        self._number += 1
        step = f"heat {self._number}: {' | '.join(map(str, settings))}"
        self._progress(step, 0, self._rounds)
        repositories = []
        for place, setting in enumerate(settings):
            repository = self._folder / f"{self._number}-{place}"
            render(self._bundle, repository, replace(setting.applied(self._options), name=f"tuned_{place}"))
            repositories.append(repository)
        first, *others = repositories
        with ExitStack() as stack:
            extra = tuple(f"--model-repository={other}" for other in others)
            server = stack.enter_context(TritonServer(first, ServerOptions(extra_arguments=extra)))
            measurers = [
                self._measurer(stack, server, repository, beside=repositories, place=place)
                for place, repository in enumerate(repositories)
            ]
            runs: list[list[Run]] = [[] for _ in settings]
            for number in range(self._rounds):
                for place in range(len(settings))[:: -1 if number % 2 else 1]:
                    runs[place] += try_twice(functools.partial(self._run, measurers[place]))
                self._progress(step, number + 1, self._rounds)
        self._replayed += [measurer.replayed for measurer in measurers]
        for repository in repositories:
            shutil.rmtree(repository)
        tried = [self._tried(setting, own) for setting, own in zip(settings, runs, strict=True)]
        self.tried += tried
        return tried

    def _measurer(
        self, stack: ExitStack, server: TritonServer, repository: Path, *, beside: Sequence[Path], place: int
    ) -> Rounds:
        served = stack.enter_context(Served(server.grpc_url, f"tuned_{place}", metrics_url=server.metrics_url))
        requests = -(-len(self._workload) // self._load.batch) * (1 if self._load.concurrency == 1 else 2)
        requests = max(requests, self._load.concurrency, math.ceil(self._load.request_rate or 0))
        journals = self._journals
        if journals is not None:  # a run counts in its own heat, among the same settings
            hashes = [repository_sha256(other) for other in beside]
            journals = journals.about(bench="tune", heat=self._number, repository=hashes[place], beside=hashes)
        return Rounds(
            served, find_perf_analyzer(), self._workload, load=self._load, requests=requests, journals=journals
        )

    def _run(self, measurer: Rounds) -> list[Run]:
        return measurer.measure((self._threshold,), latencies_of=self._exported())

    def _exported(self) -> tuple[float, ...]:
        return () if self._statistic.level is None else (self._threshold,)

    def _tried(self, setting: Setting, runs: Sequence[Run]) -> Tried:
        return Tried(
            setting=setting,
            value=self._statistic.of(runs),
            mean_ms=MEAN.of(runs),
            p99_ms=float(np.median([run.percentiles_ms[99] for run in runs])),
            throughput_per_s=THROUGHPUT.of(runs),
            rounds=len(runs),
            repeats=sum(run.repeats for run in runs),
        )
