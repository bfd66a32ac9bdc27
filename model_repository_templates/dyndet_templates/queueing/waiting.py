"""Whether a client still waits for the answer to a request.

Rendering puts this file beside every public model. Needs only Python.
"""

from __future__ import annotations

import time
from typing import Any

from refusals import RequestError  # type: ignore[import-not-found]


class Waiting:
    """The client of a request that `execute` has just received.

    Triton drops requests that are cancelled while they wait in its queue. Later, the model must ask. This is a message
    to the server and its answer, 0.1 to 0.2 ms, so it is asked at most every `ask_every_s` seconds.
    """

    def __init__(self, request: Any, *, ask_every_s: float = 0.01) -> None:
        self.started = self._asked = time.monotonic()
        """seconds"""
        self.refusal: RequestError | None = None
        self._request = request
        self._allowed_us = int(request.timeout())  # 0: no limit
        self._waited_us = 0
        self._ask_every_s = ask_every_s

    @property
    def arrived(self) -> float:
        """When the request came to the server, seconds of `time.monotonic`."""
        return self.started - self._waited_us / 1e6

    @property
    def left_us(self) -> int:
        """How long the client still waits, microseconds, at least 1; 0: no limit."""
        used_us = self._waited_us + round(1e6 * (time.monotonic() - self.started))
        return self._allowed_us and max(1, self._allowed_us - used_us)

    def has_waited(self, waited_us: int) -> None:
        """Note how long the request waited before `execute` got it."""
        self._waited_us = waited_us

    def gave_up(self) -> bool:
        """Whether nobody waits any more; `refusal` then says why."""
        if self.refusal is None:
            if self.left_us == 1:
                allowed = f"the {self._allowed_us / 1e3:g} ms that the request allowed are over"
                self.refusal = RequestError("deadline-exceeded", allowed)
            elif self._is_cancelled():
                self.refusal = RequestError("cancelled", "the request was cancelled")
        return self.refusal is not None

    def check(self) -> None:
        """Raise RequestError if nobody waits any more."""
        if self.gave_up():
            assert self.refusal is not None
            raise self.refusal

    def _is_cancelled(self) -> bool:
        now = time.monotonic()
        if now - self._asked < self._ask_every_s:
            return False
        self._asked = now
        return bool(self._request.is_cancelled())
