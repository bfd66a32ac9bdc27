"""The codes of a detector's errors: a server sends `dyndet/CODE: sentence`, and the code decides what that means."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dyndet_client.errors import (
    BadRequestError,
    DeadlineExceededError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
    UnknownOperatingPointError,
)

CODES: Mapping[str, type[ServerError]] = {
    "missing-input": BadRequestError,
    "bad-parameter": BadRequestError,
    "bad-threshold": BadRequestError,
    "unknown-operating-point": UnknownOperatingPointError,
    "bad-picture": BadRequestError,
    "picture-too-large": BadRequestError,
    "stage-failed": ServerError,
    "not-ready": ModelNotReadyError,
    "server-stopping": ServerUnreachableError,
    "overloaded": OverloadedError,
    "deadline-exceeded": DeadlineExceededError,
    "cancelled": ServerError,
    "internal-error": ServerError,
}
"""Every code that a server of this version sends, and the error that it becomes."""

_CODED = re.compile(r"(?<![\w/.-])dyndet/([a-z0-9-]+): ?(.*)", re.DOTALL)
# Repositories rendered before there were codes: the one sentence that has an error of its own.
_UNKNOWN_POINT = re.compile(r"operating point .* is not known.*", re.DOTALL)


def split_code(text: str) -> tuple[str, str]:
    """Code and sentence of an error's text; an empty code where it is not a detector's own error."""
    coded = _CODED.search(text)
    if coded:
        return coded[1], coded[2]
    sentence = text.rpartition("message: ")[2]  # what Triton puts before it names the model's instance
    old = _UNKNOWN_POINT.search(sentence)
    return ("unknown-operating-point", old[0]) if old else ("", sentence)
