"""The deadline of a call, and the failures after which it is tried again."""

from __future__ import annotations

import random
import time
from typing import Any

from tenacity import RetryCallState, retry_if_exception, wait_random_exponential

from dyndet_client.errors import DeadlineExceededError, ModelNotReadyError, OverloadedError, ServerUnreachableError
from dyndet_client.settings import Retries

_LONGEST_S = 1e7
_JITTER = 0.5
"""the most that a wait for an overloaded server exceeds the one that it names, as a share: clients that were refused
together do not come back together"""


class Deadline:
    """Counts down from its creation."""

    def __init__(self, total_s: float) -> None:
        self.total_s = total_s
        self._end = time.monotonic() + total_s
        self._use_s: float | None = None
        self._end_of_use = 0.0

    def sends(self, use_s: float | None) -> None:
        """The request is sent now, and its answer is of use for so many seconds; None: as long as one waits."""
        if use_s is not None:
            self._use_s, self._end_of_use = use_s, time.monotonic() + use_s

    def use_s(self) -> float | None:
        """Seconds that an answer is still of use, 0 or less when it is not; None where nobody has said so."""
        return None if self._use_s is None else min(self._end_of_use - time.monotonic(), _LONGEST_S)

    def left_s(self) -> float:
        """Seconds left; 0 or less when it has passed. At most what gRPC's clock can hold."""
        return min(self._end - time.monotonic(), _LONGEST_S)

    def left_for_retry_s(self) -> float:
        """Seconds within which a further attempt makes sense."""
        use_s = self.use_s()
        return self.left_s() if use_s is None else min(self.left_s(), use_s)

    def out_of_use(self, address: object) -> DeadlineExceededError:
        """The error of a request that is not sent again, because its answer would come too late."""
        return DeadlineExceededError(f"no answer from {address} within {self._use_s:g} s, after which it is of no use")

    def exceeded(self, address: object, reason: str = "") -> DeadlineExceededError:
        """The error of a server that did not answer in time, with the reason if it is a special one."""
        sentence = f"no answer from {address} within {self.total_s:g} s"
        return DeadlineExceededError(f"{sentence}: {reason}" if reason else sentence)

    def rejected(self, address: object) -> DeadlineExceededError:
        """The error of a server that noticed first that there was no time left."""
        if self.left_s() <= 0.1 * self.total_s:
            return self.exceeded(address)
        return DeadlineExceededError(f"the server at {address} gave the request up, because it waited too long there")


def may_help(retries: Retries, error: BaseException) -> bool:
    """Whether the same call may succeed a moment later, and is safe to send again."""
    not_ready = retries.on_not_ready and isinstance(error, ModelNotReadyError)
    return not_ready or isinstance(error, ServerUnreachableError)


class Overload:
    """What one call does about overloaded servers that refuse it: it is sent once more, and no further time."""

    def __init__(self) -> None:
        self.is_spent = False

    def spend(self) -> bool:
        """Whether this is the first time."""
        was_spent, self.is_spent = self.is_spent, True
        return not was_spent


def policy(retries: Retries, deadline: Deadline, overload: Overload | None = None) -> dict[str, Any]:
    """Arguments of tenacity's `Retrying` and `AsyncRetrying`.

    A call is tried again only if this is safe and may help, and never if the wait would exceed the deadline. One that
    an overloaded server has refused is tried again once, after the wait that the server names and some more.
    """
    known = overload or Overload()
    usual = wait_random_exponential(multiplier=retries.first_wait_s, max=retries.longest_wait_s)

    def again(error: BaseException) -> bool:
        if isinstance(error, OverloadedError):
            return error.retry_after_s is not None and known.spend()
        return may_help(retries, error)

    def stop(state: RetryCallState) -> bool:
        return state.attempt_number >= retries.attempts or state.upcoming_sleep >= deadline.left_for_retry_s()

    def wait(state: RetryCallState) -> float:
        error = None if state.outcome is None else state.outcome.exception()
        named_s = error.retry_after_s if isinstance(error, OverloadedError) else None
        return usual(state) if named_s is None else named_s * (1 + _JITTER * random.random())

    return {"stop": stop, "wait": wait, "retry": retry_if_exception(again), "reraise": True}
