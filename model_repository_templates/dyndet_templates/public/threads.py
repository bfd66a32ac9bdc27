"""Calls in several threads. Rendering puts this file beside every public model that needs it. Needs only Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any


def map_all(pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """`map` with all calls at the same time. Returns, or raises the first error, when every call has ended.

    Triton frees a request together with its response. A call that still asked such a request whether it is cancelled
    would end the server by SIGSEGV, so nothing may be answered while a call for it is running.
    """
    calls = [pool.submit(function, *each) for each in zip(*arguments, strict=True)]
    wait(calls)
    return [call.result() for call in calls]
