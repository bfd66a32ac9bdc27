"""A request to stop reaches whoever waits for it, also from a signal handler."""

from __future__ import annotations

import subprocess
import sys
import threading

from dyndet_builder.server.supervisor import StopRequest

_SIGNALS = """
import random, signal
from dyndet_builder.server.supervisor import StopRequest
for _ in range(500):
    stop = StopRequest()
    signal.signal(signal.SIGALRM, lambda _number, _frame: stop.set())
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 6e-4))
    while not stop.wait(1e-5):
        pass
"""


def test_a_signal_handler_can_ask_at_any_moment_of_a_wait() -> None:
    """`threading.Event` in its place makes most runs of this wait for ever."""
    subprocess.run([sys.executable, "-c", _SIGNALS], check=True, timeout=60)


def test_who_waits_is_woken_and_who_comes_later_does_not_wait() -> None:
    stop = StopRequest()
    assert not stop.wait(0.0) and not stop.is_set()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    assert stop.wait(30.0)
    timer.join()
    assert stop.wait(30.0) and stop.wait(30.0) and stop.is_set()
