"""How long requests waited before `execute` got them. Triton does not tell, and its own queue policy must not be used.

The queue policy of Triton (`default_timeout_microseconds`, seen in 2.51) makes requests wait up to 0.5 s for nothing:
with such a policy, the batcher is not woken up when an instance becomes free.

So a client sends the parameter `dyndet_sent`, `CLOCK:MICROSECONDS`: a name of its clock, which is any word of up to 64
characters, and the time on it when the request was sent. The clocks of client and server need not agree: the least
difference between them belongs to a request that did not wait. Rendering puts this file beside every public model.
Needs only Python.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict

SENT = "dyndet_sent"
"""the request's parameter"""
_LONGEST_NAME = 64
"""characters of a clock's name; the names of many clocks are kept in memory"""
_SOON_US = 5000
"""If `execute` is entered so soon after it has computed, the request has probably waited for that.

Measured on two cores that others used, too, in ms: 0.4 to 3 if requests wait; 1.1 to 6 if the only client sends one
after the other.
"""
_JITTER_US = 1000
"""by which the way of two requests may differ"""


class Arrivals:
    """Knows the clocks of recent clients. Estimates are never too long by more than clocks drift in two windows."""

    def __init__(self, *, window_s: float = 60, idle_s: float = 0.02, most_clocks: int = 1000) -> None:
        self._window_us, self._idle_us = 1e6 * window_s, 1e6 * idle_s
        self._most_clocks = most_clocks
        self._clocks: OrderedDict[str, _Clock] = OrderedDict()
        self._free_since_us = self._entered_us = 0
        self._computed_us = 0
        """how long `execute` has computed before it was entered again and again; 0: not, or long ago"""
        self._own_name = secrets.token_hex(8)

    def stamp(self) -> str:
        """The parameter of a request that this process sends now."""
        return f"{self._own_name}:{_now_us()}"

    def enter(self) -> None:
        """Note that `execute` begins."""
        self._entered_us = _now_us()
        if self._entered_us - self._free_since_us > max(_SOON_US, self._computed_us // 4):
            self._computed_us = 0

    def came_at_once(self, sent: object) -> bool:
        """Whether a request did not wait in Triton's queue, so that probably nothing waits there.

        Without a stamp, `sent` is None. Then the request has probably waited if `execute` has just computed: otherwise
        it takes requests as soon as they come.
        """
        return not self._computed_us if sent is None else self.waited_us(sent) <= _JITTER_US

    def free(self, *, computed: bool = False) -> None:
        """Note that `execute` ends: a request that comes long after did not wait. `computed`: it was busy until now."""
        self._free_since_us = _now_us()
        if computed:
            self._computed_us = self._free_since_us - self._entered_us

    def waited_us(self, sent: object) -> int:
        """Microseconds since a request was sent, by its parameter; 0 if there is none, or nothing to compare with."""
        name, _, text = str(sent).rpartition(":")
        if not (0 < len(name) <= _LONGEST_NAME and text.isdecimal() and len(text) < 20):
            return 0
        now_us = _now_us()
        difference = now_us - int(text)
        was_idle = now_us - self._free_since_us > self._idle_us
        clock = self._clocks.get(name)
        if clock is None or was_idle:
            clock = self._clocks[name] = _Clock(difference, difference, now_us)
        elif now_us - clock.since_us > self._window_us:
            clock = self._clocks[name] = _Clock(difference, clock.least, now_us)
        else:
            clock.least = min(clock.least, difference)
        self._clocks.move_to_end(name)
        if len(self._clocks) > self._most_clocks:
            self._clocks.popitem(last=False)
        return difference - min(clock.least, clock.least_before)


class _Clock:
    """Least differences to a client's clock in this window and in the one before, microseconds."""

    def __init__(self, least: int, least_before: int, since_us: int) -> None:
        self.least = least
        self.least_before = least_before
        self.since_us = since_us


def _now_us() -> int:
    return time.monotonic_ns() // 1000
