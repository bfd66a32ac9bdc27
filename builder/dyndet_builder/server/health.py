"""Looks at a running server: is it there, do its stubs live, do its detectors answer pictures?"""

from __future__ import annotations

import itertools
import re
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dynamicdet.errors import DyndetError, ServerError
from dyndet_builder.repository.config import DETECTOR_PARAMETER
from dyndet_builder.server.api import TritonApi
from dyndet_builder.server.ending import out_of_memory_kills, signal_name
from dyndet_builder.server.probe import Probe, Question, questions
from dyndet_builder.server.stubs import Process, Stub, process_of, stubs_of
from dyndet_builder.server.triton import TritonServer
from dyndet_client.codec import parse_model

_ANSWERED, _WAITING = "dyndet_routed_total", "nv_inference_pending_request_count"
_SAMPLE = re.compile(r'^(\w+)\{[^}]*\bmodel="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)
_PROBING = 0.02  # of an idle detector's time at most
_SLOWER = 2.0  # than the slowest answer that was seen lately, before a wait counts as too long
_REMEMBERED = 8  # answers
_COMPUTES = 0.03  # share of a core; a server that waits uses far less


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for answers before a server counts as broken. All times are seconds."""

    look_every_s: float = 1.0
    """time between two looks at processes and counters"""
    probe_idle_s: float = 30.0
    """a detector that has answered nothing for so long gets a probe; at once if requests wait for it"""
    answer_within_s: float = 3.0
    """longest wait for an answer while the server computes nothing; longer for a detector with slow answers"""
    busy_within_s: float = 60.0
    """longest wait for an answer while the server computes"""
    failed_probes: int = 2
    """so many probes in a row that get errors are a fault"""


class Health:
    """The state of a running server from one look to the next. Looks cost a few milliseconds."""

    def __init__(self, server: TritonServer, patience: Patience) -> None:
        self._server, self._patience = server, patience
        self._api = TritonApi(server.http_url, admin_key=server.options.admin_key, inference_key=server.inference_key)
        metrics = urllib.parse.urlsplit(server.metrics_url)
        self._metrics = TritonApi(metrics.netloc)
        self._fixed = server.options.model_control == "none"
        self._ready: frozenset[str] = frozenset()
        self._seen: frozenset[str] = frozenset()
        self._stale = True
        self._stubs: tuple[Stub, ...] = ()
        self._expected: dict[str, int] = {}
        """stubs of each model"""
        self._missing: frozenset[str] = frozenset()
        self._stopped: dict[int, float] = {}
        self._detectors: dict[str, _DetectorHealth] = {}
        self._kills_before = out_of_memory_kills()
        self._looked, self._computed_s = time.monotonic(), 0.0
        self._refresh()

    def wanted(self, before: Sequence[str] = ()) -> tuple[str, ...]:
        """Models that a restart has to load: those that were ready when the server last said so.

        Those of `before`, which the restart before this one had to load, too, unless they were ready meanwhile: then
        somebody has unloaded them. Detectors come last, so that whoever sees one can use it.
        """
        missing = [name for name in before if name not in self._seen]
        ready = sorted(self._ready, key=lambda name: (name in self._detectors, name))
        # What is missing goes to its old place: before the first model that came after it.
        for name in reversed(missing):
            later = [ready.index(other) for other in before[before.index(name) + 1 :] if other in ready]
            ready.insert(min(later, default=len(ready)), name)
        return tuple(ready)

    def look(self) -> str | None:
        """What is wrong with the server, as the beginning of a sentence; None if nothing is."""
        if (ending := self._server.ending) is not None:
            return ending
        if self._stale or not self._fixed:
            self._refresh()
        processes = [process_of(stub.process.pid) for stub in self._stubs]
        return self._dead_stub(processes) or self._stopped_process(processes) or self._silent_detector(processes)

    def _refresh(self) -> None:
        """Ask for the models that are ready now; they change on purpose unless the model control is `none`."""
        try:
            ready = self._api.models()
            if ready == self._ready and not self._stale:
                return
            configs = {name: self._api.config(name) for name in ready}
        except (OSError, ServerError):
            return  # the next look asks again
        self._ready, self._stale = ready, False
        self._seen |= ready
        self._stubs = stubs_of(self._server.pid)
        self._expected = {name: _processes(config) for name, config in configs.items()}
        before, self._detectors = self._detectors, {}
        for name, config in configs.items():
            with suppress(DyndetError):
                detector = parse_model(dict(config))
                asked = questions(detector, [other for other in configs if _calls(configs[other]) == name])
                known = before.get(name)
                if known is None or known.questions != asked:
                    known = _DetectorHealth(
                        name, asked, self._api, self._patience, warm_s=self._server.answers_s.get(name)
                    )
                self._detectors[name] = known

    def _dead_stub(self, processes: Sequence[Process | None]) -> str | None:
        """A model that is ready, but has fewer stubs than instances, at two looks in a row.

        Unloading or reloading a model ends its stubs, too, but then it is not ready or has new ones.
        """
        alive, dead = Counter[str](), dict[str, tuple[str, Process | None]]()
        for stub, process in zip(self._stubs, processes, strict=True):
            if process is not None and not process.is_dead and process.started == stub.process.started:
                alive[stub.model] += 1
            else:
                dead[stub.model] = stub.instance, process
        if not (short := {model for model, count in self._expected.items() if alive[model] < count}):
            self._missing = frozenset()
            return None
        try:
            short &= self._api.models()
            living = Counter(stub.model for stub in stubs_of(self._server.pid))
            missing = frozenset(model for model in short if living[model] < _processes(self._api.config(model)))
        except (OSError, ServerError):
            return None
        confirmed, self._missing = self._missing & missing, missing
        self._stale = not missing  # unloaded, or loaded again
        if not confirmed:
            return None
        model = min(confirmed)
        if model not in dead:  # it ended before it was first looked at
            return f"a process of model {model} was {self._ended(None)}"
        instance, process = dead[model]
        return f"the process of model {model} ({instance}) was {self._ended(process)}"

    def _ended(self, process: Process | None) -> str:
        how = ""
        if process is not None and process.is_dead:
            number, status = process.wait_status & 0x7F, process.wait_status >> 8
            out_of_memory = out_of_memory_kills() > self._kills_before
            how = f" by {signal_name(number, out_of_memory=out_of_memory)}" if number else f" with exit status {status}"
        return f"ended{how}; Triton never replaces it"

    def _stopped_process(self, processes: Sequence[Process | None]) -> str | None:
        """A process that does not run because somebody stopped it (SIGSTOP), and that nobody continues."""
        names = {stub.process.pid: f"the process of model {stub.model} ({stub.instance})" for stub in self._stubs}
        names[self._server.pid] = "the server"
        now = time.monotonic()
        found = [server := process_of(self._server.pid), *processes]
        if server is not None:  # else its end is noticed in another way
            names[server.parent] = "the guard process of the server"
            found.append(process_of(server.parent))
        stopped = [process.pid for process in found if process is not None and process.is_stopped]
        self._stopped = {pid: self._stopped.get(pid, now) for pid in stopped}
        for pid, since in self._stopped.items():
            if now - since >= self._patience.answer_within_s:
                return f"{names[pid]} hangs: it was stopped by a signal (SIGSTOP) {now - since:.0f} s ago"
        return None

    def _silent_detector(self, processes: Sequence[Process | None]) -> str | None:
        """A detector that answers nothing, neither requests nor a probe."""
        answered, waiting = self._counters()
        now, before = time.monotonic(), self._looked
        # If this process itself did not run for long, the server may not have run either.
        elapsed_s = min(now - before, 2 * self._patience.look_every_s)
        server = process_of(self._server.pid)
        computed_s = sum(process.cpu_s for process in (server, *processes) if process is not None)
        computes = computed_s - self._computed_s > _COMPUTES * elapsed_s
        self._looked, self._computed_s = now, computed_s
        for name, detector in self._detectors.items():
            fault = detector.look(
                answered.get(name), waits=waiting.get(name, 0) > 0, elapsed_s=elapsed_s, computes=computes
            )
            self._stale = self._stale or detector.fails
            if fault is not None:
                return fault
        return None

    def _counters(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Images answered, and requests that wait, by model; empty if the server does not answer."""
        values: dict[str, dict[str, float]] = {_ANSWERED: {}, _WAITING: {}}
        with suppress(OSError):
            _, text = self._metrics.ask("GET", "/metrics")
            for metric, model, value in _SAMPLE.findall(text.decode(errors="replace")):
                if metric in values:
                    values[metric][model] = values[metric].get(model, 0.0) + float(value)
        return values[_ANSWERED], values[_WAITING]


class _DetectorHealth:
    """Whether one detector answers."""

    def __init__(
        self, name: str, asked: tuple[Question, ...], api: TritonApi, patience: Patience, *, warm_s: float | None
    ) -> None:
        """`warm_s`: how long an answer took in the warm-up; None if there was none."""
        self.questions = asked
        self._name, self._api, self._patience = name, api, patience
        self._turns: Iterator[Question] = itertools.cycle(asked)
        self._probe: Probe | None = None
        self._images: float | None = None
        self._took_s = 0.0
        self._warm_s = warm_s
        self._waits_s = deque[float](maxlen=_REMEMBERED)
        """how long the last answers took, as far as that was noticed"""
        self._alive()

    @property
    def fails(self) -> bool:
        """Whether the last answer was an error."""
        return self._failed > 0

    def look(self, images: float | None, *, waits: bool, elapsed_s: float, computes: bool) -> str | None:
        """What is wrong; `images` are those that it has answered so far, `waits` tells whether requests wait."""
        if images is not None and images != self._images:
            if self._images is not None:
                self._waits_s.append(self._silent_s)
            self._images = images
            self._alive()
        if self._probe is None:
            if waits or self.fails or self._silent_s > 0 or self._is_due():
                timeout_s = self._patience.busy_within_s + self._patience.answer_within_s
                self._probe = Probe(self._api, next(self._turns), timeout_s=timeout_s)
            return None
        if self._probe.ended:
            probe, self._probe = self._probe, None
            if probe.error is not None:
                return self._failure(probe.error)
            if probe.answered and not probe.refused:
                self._took_s = probe.took_s
                self._waits_s.append(probe.took_s)
                self._alive()
                return None
        self._silent_s += elapsed_s
        self._waited_s += 0.0 if computes else elapsed_s
        if self._waited_s >= self._limit_s():
            return (
                f"detector {self._name} hangs: it has answered nothing for {self._silent_s:.1f} s, and computes nothing"
            )
        if self._silent_s >= self._patience.busy_within_s:
            return f"detector {self._name} hangs: it computes, but has answered nothing for {self._silent_s:.0f} s"
        return None

    def _limit_s(self) -> float:
        """Longest wait for an answer while nothing computes: it follows answers that are slow without computing."""
        seen = [*self._waits_s, *(() if self._warm_s is None else (self._warm_s,))]
        if not seen:  # its first answer may take any time
            return self._patience.busy_within_s
        limit_s: float = max(self._patience.answer_within_s, _SLOWER * max(seen))
        return min(limit_s, self._patience.busy_within_s)

    def _failure(self, reason: str) -> str | None:
        self._failed += 1
        if self._failed < self._patience.failed_probes:
            return None
        return f"detector {self._name} answers {self._failed} pictures in a row with errors: {reason}"

    def _alive(self) -> None:
        self._answered = time.monotonic()
        self._failed, self._silent_s, self._waited_s = 0, 0.0, 0.0

    def _is_due(self) -> bool:
        """Whether it was idle for so long that a probe is due; slow detectors get fewer."""
        pause_s = max(self._patience.probe_idle_s, self._took_s / _PROBING)
        return time.monotonic() - self._answered >= pause_s


def _calls(config: Mapping[str, Any]) -> str | None:
    """The detector that a model for image files calls; None if it is another model."""
    value = config.get("parameters", {}).get(DETECTOR_PARAMETER, {}).get("string_value")
    return None if value is None else str(value)


def _processes(config: Mapping[str, Any]) -> int:
    """Processes that the instances of a model have: one each, if it is a Python model."""
    if config.get("backend") != "python":
        return 0
    groups = config.get("instance_group", [])
    return sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", ()))) for group in groups)
