"""Errors that a request can get from a detector: each has a code, and its text is `dyndet/CODE: sentence`.

Clients distinguish errors by their code; the sentence is for people and may change. Rendering puts this file beside
every public model. Needs only Python.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

REASONS = {
    "bad_request": (
        "missing-input",
        "bad-parameter",
        "bad-threshold",
        "unknown-operating-point",
        "bad-picture",
        "picture-too-large",
    ),
    "stage_failed": ("stage-failed",),
    "cancelled": ("cancelled", "deadline-exceeded"),
    "refused": ("not-ready", "server-stopping"),
    "overloaded": ("overloaded",),
    "internal": ("internal-error",),
}
"""Codes by the reason under which a failed request is counted."""

STATUSES = {
    "missing-input": "INVALID_ARG",
    "bad-parameter": "INVALID_ARG",
    "bad-threshold": "INVALID_ARG",
    "unknown-operating-point": "INVALID_ARG",
    "bad-picture": "INVALID_ARG",
    "picture-too-large": "INVALID_ARG",
    "stage-failed": "INTERNAL",
    "not-ready": "UNAVAILABLE",
    "server-stopping": "UNAVAILABLE",
    "overloaded": "UNAVAILABLE",
    "deadline-exceeded": "UNAVAILABLE",
    "cancelled": "CANCELLED",
    "internal-error": "INTERNAL",
}
"""Every code, and the name of the status that Triton sends with it (`TritonError.INVALID_ARG`, ...)."""

PROBE = "dyndet_probe"
"""the parameter that marks a request as a probe"""
WITH_MASKS = "dyndet_masks"
"""the parameter that says false if a request does without masks, although it names all outputs"""
_LONGEST_SHOWN = 60
"""characters of a client's value that an error repeats"""
_LONGEST_SENTENCE = 1000
"""Characters. gRPC sends it as metadata, of which clients accept 16 kB, and a character can take 12 bytes there."""
_CODED = re.compile(r"dyndet/([a-z-]+): (.*)", re.DOTALL)
# Triton (2.51) gives every error of a BLS call the status INTERNAL: only its text says that nothing was computed.
# Before a call, the Python backend asks whether the model is ready. A server that stops then says so, whatever the
# model; the other texts mean that the model is not loaded. (A stopping server that was asked by `is_model_ready` died.)
_SAID_BY_TRITON = {
    "' is not ready": "not-ready",
    "Request for unknown model": "not-ready",
    "Server not ready": "server-stopping",
    "Request timeout expired": "deadline-exceeded",
}


# What a client is told; Triton's own text may name files, models and shared memory, and goes to the log.
_SENTENCES = {
    "stage-failed": "{called} failed: the server's log says why",
    "not-ready": "{called} failed: it is not ready",
    "server-stopping": "{called} failed: the server is stopping",
    "deadline-exceeded": "{called} failed: the time that the request allowed is over",
}


class RequestError(Exception):
    """An error for one request; the others of the same call are answered.

    `detail` is for the server's log alone: what other software says about the failure, which may name paths.
    """

    def __init__(self, code: str, sentence: str, *, detail: str = "", was_counted: bool = False) -> None:
        if len(sentence) > _LONGEST_SENTENCE:
            sentence = f"{sentence[:_LONGEST_SENTENCE]}..."
        super().__init__(f"dyndet/{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.detail = detail
        self.reason = next(reason for reason, codes in REASONS.items() if code in codes)
        """under which it is counted"""
        self.status = STATUSES[code]
        """its name in Triton's `TritonError`"""
        self.was_counted = was_counted
        """whether the called model that refused has counted the request"""

    @property
    def explained(self) -> str:
        """The sentence and what is known beyond it, on one line, for the server's log."""
        return f"{self.sentence} ({' '.join(self.detail.split())})" if self.detail else self.sentence


def overloaded(sentence: str, retry_after_s: float) -> RequestError:
    """The error for a request that cannot be answered in time; `sentence` says why, without a closing full stop.

    Its end names the wait after which the same request would fit. Clients read it there, so its form is fixed.
    """
    wait_ms = max(1, math.ceil(1e3 * retry_after_s))
    return RequestError("overloaded", f"{sentence}; try again in {wait_ms} ms")


def overloaded_by(refusal: Any, within_s: float) -> RequestError:
    """The error for a request that the control of load refuses, and whose answer is due so long after its arrival."""
    sentence = "too many requests wait"
    if refusal.reason == "late":
        sentence = f"no answer is possible within {1e3 * within_s:.0f} ms of the request's arrival"
    return overloaded(sentence, refusal.retry_after_s)


def read_parameters(request: Any) -> dict[str, Any]:
    """The parameters of a request.

    Raises RequestError if they, or its id, are not text of Unicode, or if one that must be true or false is not.
    """
    try:
        request.request_id()
        found: dict[str, Any] = json.loads(request.parameters() or "{}")
    except UnicodeDecodeError as error:
        raise RequestError("bad-parameter", "a parameter of the request, or its id, is not UTF-8") from error
    # Triton forwards headers as they were written, and their names have no case.
    found = {name.lower() if name[:7].lower() == "dyndet_" else name: value for name, value in found.items()}
    for name in (PROBE, WITH_MASKS):
        if name in found:
            found[name] = _switch(name, found[name])
    return found


def _switch(name: str, value: Any) -> bool:
    """A parameter that is true or false; forwarded headers are text."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise RequestError("bad-parameter", f"{name} must be true or false, not {ascii(value)[:_LONGEST_SHOWN]}")
    return value


def error_of_call(called: str, text: str) -> RequestError:
    """The error to return if a called model failed: with that model's code and sentence if it has them."""
    coded = _CODED.search(text)
    if coded and coded[1] in STATUSES:
        return RequestError(coded[1], coded[2], was_counted=True)
    code = next((code for sign, code in _SAID_BY_TRITON.items() if sign in text), "stage-failed")
    return RequestError(code, _SENTENCES[code].format(called=called), detail=text)


def unexpected(error: BaseException) -> RequestError:
    """The error to return for one that nobody expected: what it says stays on the server."""
    return RequestError(
        "internal-error",
        "the detector failed for a reason of its own; the server's log says more",
        detail=f"{type(error).__name__}: {error}",
    )
