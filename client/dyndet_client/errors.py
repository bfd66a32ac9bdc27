"""Errors of the client: one sentence each that says what was wrong, what was found and what is accepted.

::

    dynamicdet.errors.DyndetError
    ├── InputError (also a ValueError)    an image or an option is wrong; raised before anything is sent
    ├── MissingExtraError                 an optional package is not installed; the message says how to install it
    └── ServerError                       the server answered with an error or not at all
        ├── ServerUnreachableError        nothing answers at this address, or the server takes no requests now
        ├── AccessDeniedError             the server requires a header, a token or a certificate
        ├── ModelNotReadyError            the server has no such model, or it is not ready
        ├── NotADetectorError             the model is served, but it is not a dyndet detector
        ├── BadRequestError               the server refused this request; it serves others
        │   ├── NoMasksError              masks were asked for, and the detector has none
        │   └── UnknownOperatingPointError  the message names the known operating points
        ├── SharedMemoryError             shared memory was requested, but the server cannot use it
        ├── OverloadedError               the server cannot answer in time; it says when to try again
        └── DeadlineExceededError         no answer within the allowed time
"""

from __future__ import annotations

from dynamicdet.errors import DyndetError, InputError, MissingExtraError, ServerError

__all__ = [
    "AccessDeniedError",
    "BadRequestError",
    "DeadlineExceededError",
    "DyndetError",
    "InputError",
    "MissingExtraError",
    "ModelNotReadyError",
    "NoMasksError",
    "NotADetectorError",
    "OverloadedError",
    "ServerError",
    "ServerUnreachableError",
    "SharedMemoryError",
    "UnknownOperatingPointError",
]


class ServerUnreachableError(ServerError):
    """Nothing answers at this address, the connection broke, or the server takes no requests now."""


class AccessDeniedError(ServerError):
    """The server requires a header, a token or a certificate that is missing or wrong."""


class ModelNotReadyError(ServerError):
    """The server answers, but it has no such model, or the model is not ready."""


class NotADetectorError(ServerError):
    """The model is served, but its inputs, outputs or parameters are not those of a dyndet detector."""


class BadRequestError(ServerError):
    """The server refused this request, such as a wrong shape or an unknown operating point. It serves others."""


class NoMasksError(BadRequestError):
    """The detector finds boxes alone, and masks were asked for."""

    exit_code = 2


class UnknownOperatingPointError(BadRequestError):
    """The server has no operating point of this name; the message names those that it has."""

    exit_code = 2


class SharedMemoryError(ServerError):
    """Shared memory was requested, but this machine has none, or the server cannot or must not use it."""


class OverloadedError(ServerError):
    """The server has too much to do to answer this request in time. It works, and refused the request at once."""

    def __init__(self, *arguments: object, retry_after_s: float | None = None) -> None:
        super().__init__(*arguments)
        self.retry_after_s = retry_after_s
        """seconds after which the server expects to have time; None if it did not say"""


class DeadlineExceededError(ServerError):
    """The server did not answer within the allowed time."""
