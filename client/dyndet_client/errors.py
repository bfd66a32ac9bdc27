"""Errors of the client: one sentence each, that says what was wrong, what was found and what is accepted.

::

    dynamicdet.errors.DyndetError
    ├── InputError (also a ValueError)    a picture or an option is wrong; found before anything is sent
    └── ServerError                       the server answered with an error, or not at all
        ├── ServerUnreachableError        nothing answers at this address
        ├── ModelNotReadyError            the server has no such model, or it is not ready
        ├── NotADetectorError             the model is served, but it is not a dyndet detector
        ├── BadRequestError               the server refused this request; it serves others
        └── DeadlineExceededError         no answer within the time that was allowed
"""

from __future__ import annotations

from dynamicdet.errors import DyndetError, InputError, ServerError

__all__ = [
    "BadRequestError",
    "DeadlineExceededError",
    "DyndetError",
    "InputError",
    "ModelNotReadyError",
    "NotADetectorError",
    "ServerError",
    "ServerUnreachableError",
]


class ServerUnreachableError(ServerError):
    """Nothing answers at this address, or the connection broke."""


class ModelNotReadyError(ServerError):
    """The server answers, but it has no such model, or the model is not ready."""


class NotADetectorError(ServerError):
    """The model is served, but its inputs, outputs or parameters are not those of a dyndet detector."""


class BadRequestError(ServerError):
    """The server refused this request: an unknown operating point, a wrong shape. It keeps serving others."""


class DeadlineExceededError(ServerError):
    """The server did not answer within the time that was allowed."""
