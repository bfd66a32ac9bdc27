"""The deadline of a call, and the failures after which it is tried again."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from tenacity import RetryCallState, retry_if_exception, wait_random_exponential

from dyndet_client.errors import DeadlineExceededError, ModelNotReadyError, ServerUnreachableError
from dyndet_client.settings import Retries

_LONGEST_S = 1e7


class Deadline:
    """Counts down from its creation."""

    def __init__(self, total_s: float) -> None:
        self.total_s = total_s
        self._end = time.monotonic() + total_s

    def left_s(self) -> float:
        """Seconds left; 0 or less when it has passed. At most what gRPC's clock can hold."""
        return min(self._end - time.monotonic(), _LONGEST_S)

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


def policy(retries: Retries, deadline: Deadline) -> dict[str, Any]:
    """Arguments of tenacity's `Retrying` and `AsyncRetrying`.

    A call is tried again only if this is safe and may help, and never if the wait would exceed the deadline.
    """

    def stop(state: RetryCallState) -> bool:
        return state.attempt_number >= retries.attempts or state.upcoming_sleep >= deadline.left_s()

    wait = wait_random_exponential(multiplier=retries.first_wait_s, max=retries.longest_wait_s)
    return {"stop": stop, "wait": wait, "retry": retry_if_exception(partial(may_help, retries)), "reraise": True}
