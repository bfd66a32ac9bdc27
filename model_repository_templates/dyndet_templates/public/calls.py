"""What it means if a called model fails (Triton BLS).

Rendering puts this file beside every public model. Needs only Triton's own module.
"""

from __future__ import annotations

import triton_python_backend_utils as pb_utils
from refusals import RequestError, error_of_call  # type: ignore[import-not-found]


def error_of_response(called: str, response: object) -> RequestError:
    """The error to return if the call of a model failed.

    While the server stops, it unloads models in any order: a model that is gone then is no fault of the repository.
    """
    error = error_of_call(called, response.error().message())  # type: ignore[attr-defined]
    if error.code == "not-ready" and _server_stops():
        return RequestError("server-stopping", error.sentence)
    return error


def _server_stops() -> bool:
    try:
        pb_utils.is_model_ready("")  # a server that stops refuses to tell, whatever the model
    except Exception as error:
        return "Server not ready" in str(error)
    return False
