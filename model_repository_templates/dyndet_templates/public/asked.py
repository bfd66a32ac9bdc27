"""A request to the public detector and its answers, as all files of a model see them. Needs only Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backlog import Job  # type: ignore[import-not-found]
from refusals import PROBE  # type: ignore[import-not-found]
from terms import Terms  # type: ignore[import-not-found]
from tracing import Trace  # type: ignore[import-not-found]
from waiting import Waiting  # type: ignore[import-not-found]

EASY, HARD, FALLBACK, DEGRADED = 1, 2, -2, -3  # values of the output `route`
DUE = 0
"""the value of the output `route` of an image that detector 1 has answered by its own picture, and that is hard: the
caller sends the picture of detector 2 with the difficulty, and the answer to that call is what counts"""
ROUTE_NAMES = {EASY: "easy", HARD: "hard", FALLBACK: "fallback", DEGRADED: "degraded"}


@dataclass(frozen=True)
class Answer:
    """The answer to one image. `tensors` has the wanted outputs of the stage that answered, batch size 1."""

    route: int
    difficulty: float
    tensors: Mapping[str, Any]


@dataclass(eq=False)
class Asked:
    """A request, and what metrics and log need to know about it once it is answered."""

    request: Any
    waiting: Waiting
    came_at_once: bool = False
    """whether it did not wait in Triton's queue, so that probably nothing waits there"""
    first: str = ""
    """the stage that gives the difficulty of its images"""
    image: Any = None
    """(B, H, W, 3) uint8, Triton's tensor: what its first stage reads"""
    thresholds: Sequence[float] = ()
    """of each image"""
    sets_threshold: bool = False
    """whether the request sets them itself; otherwise its operating point does"""
    operating_point: str = ""
    difficulties: Sequence[float | None] = ()
    """of each image, if detector 1 has given it to an earlier request and only detector 2 is due"""
    wanted: frozenset[str] = frozenset()
    """names of the outputs to send back"""
    detections: tuple[str, ...] = ()
    """those of them that come from a detector; empty: no detector has to run"""
    warnings: list[str] = field(default_factory=list)
    failed_stages: list[str] = field(default_factory=list)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """of the request, without Triton's own"""
    terms: Terms = field(default_factory=Terms)
    job: Job | None = None
    """the request as load and queue see it; None: it was answered or refused while it was read"""
    returned: bool = False
    """whether `execute` returns the response; if a call has one request, this saves a message to the server"""
    response: Any = None
    is_answered: bool = False
    held: int | None = None
    """bytes of those for waiting requests that it takes; None: it does not wait, and `execute` answers it"""
    waited_ms: float = 0.0
    """in the queue"""
    trace: Trace | None = None
    """None: nobody traces the request"""

    @property
    def counted(self) -> bool:
        """Whether metrics count it as a request: probes are counted apart."""
        return not self.parameters.get(PROBE)

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return math.prod(self.image.shape())

    @property
    def is_mixed(self) -> bool:
        """Whether its images have different thresholds."""
        return len(self.thresholds) > 1 and len(set(self.thresholds)) > 1

    @property
    def is_second(self) -> bool:
        """Whether only detector 2 is asked, for images that detector 1 has answered."""
        return any(one is not None for one in self.difficulties)
