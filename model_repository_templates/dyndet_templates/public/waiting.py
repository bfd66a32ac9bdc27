"""Whether a client still waits for the answer to a request.

Rendering puts this file beside every public model. Needs only Python.
"""

from __future__ import annotations

import time
from typing import Any

from refusals import RequestError  # type: ignore[import-not-found]


class Waiting:
    """The client of a request that `execute` has just received.

    Triton drops requests whose client has given up while they wait in a queue. Later, the model must look itself.
    """

    def __init__(self, request: Any) -> None:
        self.started = time.perf_counter()
        """seconds"""
        self.refusal: RequestError | None = None
        self._request = request
        self._allowed_us = int(request.timeout())  # 0: no limit

    @property
    def left_us(self) -> int:
        """How long the client still waits, microseconds, at least 1; 0: no limit."""
        return self._allowed_us and max(1, self._allowed_us - round(1e6 * (time.perf_counter() - self.started)))

    def gave_up(self) -> bool:
        """Whether nobody waits any more; `refusal` then says why."""
        if self.refusal is None:
            if self.left_us == 1:
                allowed = f"the {self._allowed_us / 1e3:g} ms that the request allowed are over"
                self.refusal = RequestError("deadline-exceeded", allowed)
            elif self._request.is_cancelled():
                self.refusal = RequestError("cancelled", "the request was cancelled")
        return self.refusal is not None

    def check(self) -> None:
        """Raise RequestError if nobody waits any more."""
        if self.gave_up():
            assert self.refusal is not None
            raise self.refusal
