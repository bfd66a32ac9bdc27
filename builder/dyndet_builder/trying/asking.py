"""Asks a server for both routes of a picture, one request at a time, and notices when the server goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import DyndetError
from dynamicdet.letterbox import Letterboxed
from dyndet_builder.trying.history import Seen, match
from dyndet_builder.trying.points import Points, points_of
from dyndet_client.async_detector import AsyncDetector
from dyndet_client.codec import has_area
from dyndet_client.detections import Detections
from dyndet_client.errors import (
    AccessDeniedError,
    BadRequestError,
    DeadlineExceededError,
    ModelNotReadyError,
    NotADetectorError,
    ServerUnreachableError,
)
from dyndet_client.results.masks import Masks
from dyndet_client.session import NAME_ONE
from dyndet_client.settings import Connection, Retries, Tls

MakeDetector: TypeAlias = Callable[..., AsyncDetector]
"""makes a detector; its arguments are those of `AsyncDetector` in whose place `Asker` puts its own"""

AWAY = (
    AccessDeniedError,
    DeadlineExceededError,
    ModelNotReadyError,
    NotADetectorError,
    ServerUnreachableError,
)
"""errors for which no picture gets an answer"""
MIN_SCORE = 0.05
"""objects below this score are not asked for"""
_ALL_EASY, _ALL_HARD = 1.0, 0.0
_LOOK_EVERY_S, _LOOK_EVERY_DOWN_S = 3.0, 1.0
_LOOK_TIMEOUT_S = 3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What both routes answered for one picture, and the time of each request at this end, in milliseconds."""

    easy: Detections
    """of detector 1; its route is `hard` if the router gave no difficulty, so that detector 2 answered"""
    hard: Detections
    """of detector 2; its route is `fallback` if detector 2 failed and detector 1 answered"""
    seen: Seen


@dataclass(kw_only=True)
class Asker:
    """A served detector, for any number of pages in one event loop."""

    make: MakeDetector
    pages: Callable[[], int] = lambda: 1
    """how many pages are open; the server is only watched for them"""
    problem: str | None = None
    """why the server does not answer, in one sentence; None while it does"""
    points: Points | None = None
    """the operating points when it was last connected to; None before"""

    def __post_init__(self) -> None:
        self._turn = asyncio.Lock()
        self._detector: AsyncDetector | None = None

    async def ask(self, pixels: UInt8Array) -> Answers:
        """Both routes of a picture, (H, W, 3) RGB.

        Raises one of `AWAY`, which is also in `problem`, or another DyndetError that concerns this picture alone.

        The picture is fitted into the detector's input first, so that the times are those of request and answer. Those
        of a detector with masks are for answers with masks.
        """
        async with self._turn:
            try:
                detector = await self._connected()
                fitted = await asyncio.to_thread(detector.fit, pixels)
                return await _both(detector, fitted)
            except AWAY as error:
                self._note(error)
                raise

    async def watch(self) -> None:
        """Look again and again whether the server answers, until this is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S if self.problem is None else _LOOK_EVERY_DOWN_S)
            if self.pages():
                await self.look()

    async def look(self) -> None:
        """Find out whether the server answers; if it is back, connect anew."""
        try:
            probe = self.make(transport="network", timeout=_LOOK_TIMEOUT_S, retries=Retries(attempts=1))
            try:
                await probe.connect()
            finally:
                await probe.close()
        except DyndetError as error:
            self._note(error)
            return
        if self.problem is not None or self._detector is None:
            async with self._turn:
                await self._disconnect()
                try:
                    await self._connected()
                except DyndetError as error:
                    self._note(error)
                else:
                    self.problem = None

    async def close(self) -> None:
        """End the connection."""
        async with self._turn:
            await self._disconnect()

    def _note(self, error: DyndetError) -> None:
        self.problem = str(error).replace(NAME_ONE, "name one with --model")

    async def _connected(self) -> AsyncDetector:
        if self._detector is None:
            detector = self.make()
            try:
                await detector.connect()
                await _both(detector, _grey(detector))  # the first request of a connection takes longer
            except BaseException:
                await detector.close()
                raise
            self._detector = detector
            self.points = await _points(detector)
        return self._detector

    async def _disconnect(self) -> None:
        detector, self._detector = self._detector, None
        if detector is not None:
            await detector.close()


async def _points(detector: AsyncDetector) -> Points:
    try:
        return points_of(await detector.operating_points)
    except BadRequestError:  # the repository is of an earlier version
        return Points()


async def _both(detector: AsyncDetector, fitted: Letterboxed) -> Answers:
    found, times_ms = [], []
    for threshold in (_ALL_EASY, _ALL_HARD):
        began = time.perf_counter()
        answer = await detector.detect(fitted.image, threshold=threshold, min_score=MIN_SCORE, masks=detector.has_masks)
        times_ms.append((time.perf_counter() - began) * 1e3)
        found.append(_in_original(answer, fitted))
    easy, hard = found
    seen = Seen(difficulty=easy.difficulty, easy_ms=times_ms[0], hard_ms=times_ms[1], matches=match(easy, hard))
    return Answers(easy=easy, hard=hard, seen=seen)


def _grey(detector: AsyncDetector) -> Letterboxed:
    return detector.fit(np.full(detector.fit.shape, detector.fit.pad, np.uint8))


def _in_original(found: Detections, fitted: Letterboxed) -> Detections:
    """The same objects in pixels of the original picture, without those in its borders."""
    boxes = fitted.to_original(found.boxes) if len(found) else found.boxes
    rows = np.flatnonzero(has_area(boxes))
    return replace(
        found,
        boxes=boxes[rows],
        scores=found.scores[rows],
        classes=found.classes[rows],
        names=tuple(found.names[row] for row in rows),
        masks=None if found.masks is None else Masks.of(found.masks.values[rows], found.masks.boxes[rows], fitted),
        image_size=(fitted.original_width, fitted.original_height),
    )


def maker(
    urls: Sequence[str],
    model: str,
    *,
    timeout: float = 30.0,
    tls: Tls | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
) -> MakeDetector:
    """A function for `Asker.make`. Raises InputError if the arguments contradict each other."""
    Connection.make(urls, tls=tls, headers=headers, token=token)

    def make(**chosen: Any) -> AsyncDetector:
        settings: dict[str, Any] = {"timeout": timeout, "tls": tls, "headers": headers, "token": token}
        return AsyncDetector(urls, model, **{**settings, **chosen})

    return make
