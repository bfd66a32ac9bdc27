"""What a detector does in a closed loop before the first level: latencies of both routes, and the all-easy capacity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dynamicdet.aliases import FloatArray, IntArray
from dynamicdet.errors import ServerError
from dynamicdet.records import Ordinal, Positive
from dyndet_bench.load.generators import Generators
from dyndet_bench.load.messages import Found, System, read_answer
from dyndet_bench.load.queueing import Service
from dyndet_bench.load.record import Capacity
from dyndet_bench.load.sending import ANSWERED, Sent
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD
from dyndet_client.errors import ServerUnreachableError

CONCURRENCIES = (2, 4, 8)
"""tried for the capacity"""
_REPEATED = 2
"""loops of each route whose mean counts"""
_IMAGES = 50
_Times = Annotated[list[Positive], Field(min_length=1, max_length=1_000_000)]


class Base(BaseModel):
    """The measurements before the first level, as they are stored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    easy_ms: _Times
    """latencies of one request at a time"""
    hard_ms: _Times
    easy_per_s: Positive
    """throughput at full load"""
    hard_per_s: Positive
    concurrency: Ordinal

    @property
    def capacity(self) -> Capacity:
        """The same for the record."""
        return Capacity(
            easy_mean_ms=float(np.mean(self.easy_ms)),
            hard_mean_ms=float(np.mean(self.hard_ms)),
            easy_per_s=self.easy_per_s,
            hard_per_s=self.hard_per_s,
            concurrency=self.concurrency,
        )

    @property
    def service(self) -> Service:
        """Service times at full load."""
        easy, hard = np.array(self.easy_ms), np.array(self.hard_ms)
        return Service.scaled(easy, hard, easy_per_s=self.easy_per_s, hard_per_s=self.hard_per_s)


class ClosedLoop:
    """Asks one detector in closed loops. Raises ServerError if a request is not answered."""

    def __init__(self, generators: Generators, *, model: str, images: int, seconds: float, seed: int) -> None:
        """`images` is how many the generators hold; `seconds` is the length of a loop."""
        self._generators, self._model, self._seconds = generators, model, seconds
        self._every = np.arange(images)
        self._some = np.random.default_rng(seed).permutation(images)[:_IMAGES]

    def every_image(self, threshold: float) -> list[Found]:
        """The answer to every image at a threshold, one request at a time."""
        sent = self._send(threshold, self._every, concurrency=1, seconds=0.0)
        answers = [read_answer(one, model=self._model) for one in sent.answers]
        return [answers[place] for place in sent.answer[: self._every.size]]

    def latencies_ms(self, threshold: float) -> FloatArray:
        """Latencies of one request at a time, (requests,)."""
        sent = self._send(threshold, self._some, concurrency=1, seconds=self._seconds)
        return 1e3 * (sent.ended_s - sent.sent_s)

    def throughput(self, threshold: float, concurrency: int) -> float:
        """Images answered a second with so many requests in flight."""
        sent = self._send(threshold, self._some, concurrency=concurrency, seconds=self._seconds)
        return float(sent.sent_s.size / np.nanmax(sent.ended_s))

    def base(self, tell: Callable[[int, int], None]) -> Base:
        """Measure everything; `tell` is called with the number of finished loops, and of all."""
        total = 2 + len(CONCURRENCIES) + 2 * _REPEATED
        latencies: list[FloatArray] = []
        for threshold in (ALL_EASY, ALL_HARD):
            tell(len(latencies), total)
            latencies.append(self.latencies_ms(threshold))
        rates: dict[int, float] = {}
        for concurrency in CONCURRENCIES:
            tell(2 + len(rates), total)
            rates[concurrency] = self.throughput(ALL_EASY, concurrency)
        best = max(rates, key=lambda one: rates[one])
        easy_per_s, hard_per_s = self._repeated(best, lambda done: tell(2 + len(rates) + done, total))
        easy_ms, hard_ms = (np.round(one, 4).tolist() for one in latencies)
        return Base(easy_ms=easy_ms, hard_ms=hard_ms, easy_per_s=easy_per_s, hard_per_s=hard_per_s, concurrency=best)

    def _repeated(self, concurrency: int, tell: Callable[[int], None]) -> tuple[float, float]:
        """The mean throughputs of both routes. Not those by which the concurrency was chosen: the highest was lucky."""
        rates: dict[float, list[float]] = {ALL_EASY: [], ALL_HARD: []}
        for done in range(2 * _REPEATED):
            tell(done)
            threshold = (ALL_EASY, ALL_HARD)[done % 2]
            rates[threshold].append(self.throughput(threshold, concurrency))
        tell(2 * _REPEATED)
        return float(np.mean(rates[ALL_EASY])), float(np.mean(rates[ALL_HARD]))

    def _send(self, threshold: float, order: IntArray, *, concurrency: int, seconds: float) -> Sent:
        system = System(name="closed loop", threshold=threshold)
        sent = self._generators.closed_loop(system, order, concurrency=concurrency, seconds=seconds)
        if sent.gone or (sent.outcome != ANSWERED).any():
            raise not_answered(sent.sentences, gone=sent.gone)
        return sent


def not_answered(sentences: Sequence[str], *, gone: bool) -> ServerError:
    """The error for requests without an answer."""
    said = sentences[0] if sentences else "it gave no reason"
    if gone:
        return ServerUnreachableError(f"the server stopped answering: {said}")
    return ServerError(f"the server does not answer every request: {said}")
