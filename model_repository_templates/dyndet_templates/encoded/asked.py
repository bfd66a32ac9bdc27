"""A request to the model that takes image files. Needs Triton's own module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import triton_python_backend_utils as pb_utils
from backlog import Job  # type: ignore[import-not-found]
from lanes import Lane, Promises  # type: ignore[import-not-found]
from refusals import PROBE  # type: ignore[import-not-found]
from terms import MOST_URGENT, Terms  # type: ignore[import-not-found]
from waiting import Waiting  # type: ignore[import-not-found]


@dataclass(eq=False)
class Asked:
    """A request."""

    request: Any
    waiting: Waiting
    lane: Lane
    """where it waits and is answered"""
    arrived: float = 0.0
    """when it came to the server, seconds of `time.monotonic`"""
    came_at_once: bool = False
    """whether it did not wait in Triton's queue, so that probably nothing waits there"""
    terms: Terms = field(default_factory=Terms)
    job: Job | None = None
    """the request as its queue sees it; None: it is answered without a look at its pictures, or was refused"""
    held: int | None = None
    """bytes of its queue that it takes; None: it does not wait there"""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """without Triton's own"""
    files: Sequence[bytes] = ()
    wanted: frozenset[str] = frozenset()
    """names of the outputs to send back"""

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(map(len, self.files))


def job_of(asked: Asked, promises: Promises) -> Job:
    """A request as its queue sees it. Probes wait for no others, and nothing is promised to them."""
    terms, is_probe = asked.terms, bool(asked.parameters.get(PROBE))
    follow = None if is_probe or threshold_of(asked) else promises.of(asked.parameters, terms.tenant)
    return Job(
        payload=asked,
        arrived=asked.arrived,
        threshold=1.0,
        deadline=None if terms.deadline_s is None else asked.arrived + terms.deadline_s,
        priority=MOST_URGENT if is_probe else terms.priority,
        images=len(asked.files),
        follow=follow,
    )


def threshold_of(asked: Asked) -> list[Any]:
    """The thresholds that a request sets, as an input of the detector; empty: it sets none."""
    threshold = pb_utils.get_input_tensor_by_name(asked.request, "threshold")
    return [] if threshold is None else [threshold]
