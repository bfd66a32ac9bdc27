"""Reads a request to the public detector: its pictures, thresholds and terms. Needs Triton's own module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils
from arrivals import SENT, Arrivals  # type: ignore[import-not-found]
from asked import Asked  # type: ignore[import-not-found]
from backlog import Job  # type: ignore[import-not-found]
from operating_points import OperatingPoints  # type: ignore[import-not-found]
from refusals import WITH_MASKS, RequestError, read_parameters  # type: ignore[import-not-found]
from terms import MOST_URGENT, read_terms  # type: ignore[import-not-found]

IMAGE, OWN_IMAGE, DIFFICULTY, ROUTE, THRESHOLD = "image", "own_image", "difficulty", "route", "threshold"
MASKS = "masks"
OPERATING_POINT = "dyndet_operating_point"
POINTS = "operating_points"
"""the output with the operating points; only a request that wants nothing else gets it"""


class Reader:
    """Reads requests; each method raises RequestError for what is not accepted."""

    def __init__(self, points: OperatingPoints, arrivals: Arrivals, settings: Mapping[str, Any]) -> None:
        self._points, self._arrivals = points, arrivals
        self._detections = tuple(settings["detection_outputs"])
        self._first: str = settings["first"]
        self._own: str | None = settings["own"]

    def read(self, asked: Asked) -> None:
        """Read what a request wants."""
        request = asked.request
        asked.parameters = read_parameters(request)
        sent = asked.parameters.get(SENT)
        if sent is not None:
            asked.waiting.has_waited(self._arrivals.waited_us(sent))
        asked.came_at_once = self._arrivals.came_at_once(sent)
        asked.terms = read_terms(asked.parameters)
        asked.first, asked.image = self._first, pb_utils.get_input_tensor_by_name(request, IMAGE)
        if self._own is not None:
            self._read_own(asked)
        if asked.image is None:  # Triton accepts a request that has only the optional input
            raise RequestError("missing-input", "the input image is missing")
        asked.wanted = frozenset(request.requested_output_names())
        if not asked.parameters.get(WITH_MASKS, True):
            asked.wanted -= {MASKS}
        if asked.wanted == {POINTS}:
            return
        asked.detections = tuple(name for name in self._detections if name in asked.wanted)
        self._read_thresholds(asked)
        asked.difficulties = asked.difficulties or [None] * len(asked.thresholds)

    def _read_own(self, asked: Asked) -> None:
        """Read the inputs that only pairs have whose detectors fit pictures by different rules."""
        own, given = (pb_utils.get_input_tensor_by_name(asked.request, name) for name in (OWN_IMAGE, DIFFICULTY))
        if own is not None and (given is not None or asked.image is not None):
            raise RequestError("bad-parameter", "own_image comes without image and difficulty")
        if own is not None:
            asked.first, asked.image = self._own, own
        elif given is not None and asked.image is not None:
            asked.difficulties = [float(one) for one in given.as_numpy().reshape(-1)]

    def _read_thresholds(self, asked: Asked) -> None:
        """The threshold of each image: the input, else the named operating point, else the tenant's, or the default."""
        tensor = pb_utils.get_input_tensor_by_name(asked.request, THRESHOLD)
        if tensor is not None:
            asked.sets_threshold = True
            asked.thresholds = [_checked(threshold) for threshold in tensor.as_numpy().reshape(-1)]
            return
        asked.operating_point = str(asked.parameters.get(OPERATING_POINT, self._points.of_tenant(asked.terms.tenant)))
        try:
            threshold = self._points.threshold(asked.operating_point)
        except ValueError as error:
            raise RequestError("unknown-operating-point", str(error)) from error
        asked.thresholds = [threshold] * asked.image.shape()[0]

    def job_of(self, asked: Asked) -> Job:
        """A request that was read, as load and queue see it.

        Probes wait for no others, and nothing is promised to them. The second request for a picture has been admitted
        with the first, whose budget has paid for it.
        """
        terms, arrived = asked.terms, asked.waiting.arrived - asked.terms.waited_s
        follow = None
        if asked.counted and not asked.sets_threshold:
            follow = self._points.follow(asked.operating_point)
        return Job(
            payload=asked,
            arrived=arrived,
            threshold=min(asked.thresholds),
            deadline=None if terms.deadline_s is None else arrived + terms.deadline_s,
            priority=terms.priority if asked.counted else MOST_URGENT,
            tenant=terms.tenant if asked.counted else "",
            images=len(asked.thresholds),
            follow=follow,
            second=asked.is_second,
        )


def _checked(threshold: float) -> float:
    if not 0 <= threshold <= 1:  # true for NaN
        raise RequestError(
            "bad-threshold",
            f"threshold must be a finite number from 0 to 1, not {threshold}; "
            "0 sends every image to detector 2, 1 sends none",
        )
    return float(threshold)
