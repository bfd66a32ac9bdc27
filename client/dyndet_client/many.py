"""Answers many images at once, in their order, with a bounded number of requests in flight."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import numpy as np
from PIL import Image

from dynamicdet.errors import InputError
from dyndet_client.checks import shown

S = TypeVar("S")
T = TypeVar("T")

AHEAD = 2
"""Pictures drawn beyond those answered, per request in flight: one is prepared while another is waited for."""


def check(images: object, concurrency: int, errors: str, *, in_loop: bool = False) -> None:
    """Raise InputError for what `detect_many` does not take; in an event loop it takes asynchronous iterables too."""
    one_picture = isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image)
    if one_picture or (isinstance(images, np.ndarray) and images.ndim < 4):
        raise InputError("detect_many takes a list or a generator of images, not one image: use detect")
    if not any(hasattr(images, name) for name in ("__iter__", "__getitem__", *(("__aiter__",) if in_loop else ()))):
        raise InputError(f"detect_many takes a list or a generator of images, not {shown(images)}")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= 1000:
        raise InputError(f"concurrency must be a whole number from 1 to 1000, not {shown(concurrency)}")
    if not isinstance(errors, str) or errors not in ("raise", "return"):
        raise InputError(f"errors must be 'raise' or 'return', not {shown(errors)}")


def in_order(
    answer: Callable[[S], T], sources: Iterable[S], *, concurrency: int, cancel: Callable[[], None]
) -> Iterator[T]:
    """The answers in the order of the sources; `cancel` ends what is under way when the caller wants no more."""
    window: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(concurrency, "dyndet")
    try:
        for source in sources:
            window.append(pool.submit(copy_context().run, answer, source))  # its current span is the caller's
            while window and (len(window) >= AHEAD * concurrency or window[0].done()):
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        for future in window:
            future.cancel()
        cancel()
        pool.shutdown()


async def in_order_async(
    answer: Callable[[S], Awaitable[T]], sources: Iterable[S] | AsyncIterable[S], *, concurrency: int
) -> AsyncIterator[T]:
    """`in_order` for an event loop."""
    places = asyncio.Semaphore(concurrency)

    async def limited(source: S) -> T:
        async with places:
            return await answer(source)

    window: deque[asyncio.Task[T]] = deque()
    try:
        async for source in _draw(sources):
            window.append(asyncio.ensure_future(limited(source)))
            while window and (len(window) >= AHEAD * concurrency or window[0].done()):
                yield await _result(window[0])
                window.popleft()
        while window:
            yield await _result(window[0])
            window.popleft()
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)


async def _result(task: asyncio.Task[T]) -> T:
    """Of a task, which waiting for it does not cancel. Raises InputError where closing the detector has."""
    await asyncio.wait((task,))
    if task.cancelled():
        raise InputError("this detector was closed while it answered; create a new one")
    return task.result()


async def _draw(sources: Iterable[S] | AsyncIterable[S]) -> AsyncIterator[S]:
    if isinstance(sources, AsyncIterable):
        async for source in sources:
            yield source
        return
    for source in sources:
        yield source
        await asyncio.sleep(0)  # else a plain iterable would keep the requests from being sent
