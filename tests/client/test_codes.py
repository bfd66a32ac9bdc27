"""The codes of a detector's errors: the server and the client have the same, and the code decides what is raised."""

from __future__ import annotations

import importlib
import pickle
import re
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from dyndet_client import (
    AccessDeniedError,
    BadRequestError,
    DeadlineExceededError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
    UnknownOperatingPointError,
)
from dyndet_client.codes import CODES
from dyndet_client.protocol import translate
from dyndet_client.retrying import Deadline, may_help
from dyndet_client.settings import Retries

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "model_repository_templates" / "dyndet_templates"
refusals = importlib.import_module("dyndet_templates.public.refusals")


def translated(text: str, status: str = "StatusCode.INTERNAL") -> ServerError:
    error = InferenceServerException(text, status=status)
    return translate(error, model="street", address="host:8001", deadline=Deadline(5))


def test_server_client_and_documentation_have_the_same_codes() -> None:
    documented = re.findall(r"^\| `([a-z-]+)` \| [A-Z_]+ \|", (ROOT / "docs" / "client.md").read_text(), re.MULTILINE)
    assert documented == list(refusals.STATUSES) == list(CODES)


def test_every_code_is_sent_by_a_model_of_the_server() -> None:
    files = [
        path for name in ("public", "queueing", "bls", "fused", "encoded") for path in (TEMPLATES / name).glob("*.py")
    ]
    text = "".join(
        path.read_text().partition("STATUSES = {")[2].partition("}")[2] or path.read_text() for path in files
    )
    assert [code for code in CODES if f'"{code}"' not in text] == []


@pytest.mark.parametrize("code", CODES)
def test_a_code_decides_the_error_and_is_not_shown(code: str) -> None:
    """Whatever the sentence says: these words mean something else where a server without codes says them."""
    sentence = "operating point 'a' is not known, unknown model, is not ready. message: none"
    found = translated(f"dyndet/{code}: {sentence}")
    assert type(found) is CODES[code]
    assert "dyndet/" not in str(found)
    if not isinstance(found, (ServerUnreachableError, DeadlineExceededError)):  # have sentences of their own
        assert sentence in str(found)


def test_a_code_is_found_behind_what_triton_puts_before_it() -> None:
    text = "Failed to process the request(s) for model 'toy_0', message: dyndet/bad-threshold: it is 2.\nTraceback"
    assert type(translated(text)) is BadRequestError
    assert str(translated(text)) == "the server refused the request: it is 2"
    path = "/models/dyndet/model: no such file"  # is no code
    assert str(translated(path)) == f"model 'street' at host:8001 failed: {path}"


def test_an_empty_text_and_a_huge_one_are_still_a_sentence() -> None:
    for text in ("dyndet/stage-failed: ", "dyndet/stage-failed:", "", "\n"):
        assert str(translated(text)) == "model 'street' at host:8001 failed: no reason given"
    huge = str(translated("dyndet/stage-failed: " + "long " * 40_000))
    assert len(huge) < 1200 and huge.endswith("long  ... (199,999 characters)")


def test_a_code_of_a_later_server_becomes_the_general_error() -> None:
    for status, expected in (("INTERNAL", ServerError), ("UNAVAILABLE", ServerError), ("400", BadRequestError)):
        found = translated("dyndet/too-blue: the picture is too blue", status)
        assert type(found) is expected
        assert str(found).endswith(": the picture is too blue")


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("operating point 'x' is not known; this model has a, b", "INVALID_ARGUMENT", UnknownOperatingPointError),
        (
            "operating point 'x' is not known; this model's operating points are 'a' and 'b'",
            "INTERNAL",
            UnknownOperatingPointError,
        ),
        ("threshold must be a finite number from 0 to 1, not 2", "INVALID_ARGUMENT", BadRequestError),
        ("stage toy_head1 failed: Model 'toy_head1' is not ready.", "INTERNAL", ModelNotReadyError),
        ("Request for unknown model: 'toy' is not found", "NOT_FOUND", ModelNotReadyError),
        ("This protocol is restricted, expecting header 'team'", "UNAVAILABLE", AccessDeniedError),
        ("anything", "DEADLINE_EXCEEDED", DeadlineExceededError),
        ("stage toy_head1 failed: out of memory", "INTERNAL", ServerError),
    ],
)
def test_errors_without_a_code_mean_what_they_meant(text: str, status: str, expected: type[ServerError]) -> None:
    """Triton's own, and those of repositories that were rendered before there were codes."""
    found = translated(text, status)
    assert type(found) is expected
    if expected is not DeadlineExceededError:
        assert text.rstrip(".") in str(found)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Request timeout expired", "StatusCode.UNAVAILABLE"),
        ("Request timeout expired", "503"),
        ("dyndet/stage-failed: stage toy_head1 failed: Request timeout expired", "StatusCode.INTERNAL"),
        ("dyndet/deadline-exceeded: the request's time is over", "StatusCode.UNAVAILABLE"),
    ],
)
def test_what_a_server_left_out_because_it_was_late_is_a_deadline_and_is_not_tried_again(text, status) -> None:
    found = translated(text, status)
    assert type(found) is DeadlineExceededError and not may_help(Retries(on_not_ready=True), found)
    assert str(found) == "the server at host:8001 gave the request up, because it waited too long there"
    late = translate(
        InferenceServerException(text, status), model="street", address="host:8001", deadline=Deadline(1e-9)
    )
    assert str(late) == "no answer from host:8001 within 1e-09 s"


def test_a_model_that_was_served_a_moment_ago_is_gone_because_its_server_stops() -> None:
    """Then another replica may answer. A server that never served the model does not become a server that stops."""
    for text, status in (
        ("Request for unknown model: 'toy' has no available versions", "StatusCode.NOT_FOUND"),
        ("Request for unknown model: 'toy' version 1 is not at ready state", "StatusCode.UNAVAILABLE"),
        ("Server not ready", "StatusCode.INTERNAL"),
    ):
        error = InferenceServerException(text, status)
        arguments = {"model": "toy", "address": "host:8001", "deadline": Deadline(5)}
        found = translate(error, **arguments, was_served=True)
        assert type(found) is ServerUnreachableError and may_help(Retries(), found)
        assert str(found).endswith("(the server is stopping)")
        assert type(translate(error, **arguments)) is not ServerUnreachableError
    denied = InferenceServerException("This protocol is restricted, expecting header 'team'", "StatusCode.UNAVAILABLE")
    assert type(translate(denied, **arguments, was_served=True)) is AccessDeniedError


def test_a_server_that_drains_says_so_without_what_triton_puts_before_it() -> None:
    text = "[request id: <id_unknown>] Server is stopping, scheduler for model has stopped accepting new requests"
    for said in (text, "Server is stopping", f"dyndet/server-stopping: stage toy_head1 failed: {text}"):
        found = translated(said, "StatusCode.UNAVAILABLE")
        assert type(found) is ServerUnreachableError
        assert str(found) == "the server at host:8001 takes no requests now (the server is stopping)"


def test_an_overloaded_server_names_the_wait_and_is_no_server_that_is_away() -> None:
    refusal = refusals.overloaded("the request cannot be answered within 70 ms", 0.0123)
    assert str(refusal).endswith("; try again in 13 ms") and (refusal.status, refusal.reason) == (
        "UNAVAILABLE",
        "overloaded",
    )
    for text in (str(refusal), str(refusals.error_of_call("toy", f"Model toy - Error: {refusal}"))):
        found = translated(text, "StatusCode.UNAVAILABLE")
        assert isinstance(found, OverloadedError) and found.retry_after_s == pytest.approx(0.013)
        assert str(found).startswith("the server at host:8001 is overloaded: the request cannot be")
        assert not isinstance(found, ServerUnreachableError) and not may_help(Retries(on_not_ready=True), found)
        assert pickle.loads(pickle.dumps(found)).retry_after_s == found.retry_after_s
    for unsaid in ("it is full", f"it is full; try again in {10**9} ms", "try again in -1 ms"):
        assert translated(f"dyndet/overloaded: {unsaid}").retry_after_s is None
    assert str(refusals.overloaded("it is full", 0.0)).endswith("; try again in 1 ms")


def test_a_long_text_of_a_client_comes_back_cut() -> None:
    """gRPC sends errors as metadata; an error of more than 16 kB there breaks the connection."""
    assert len(str(refusals.RequestError("bad-picture", "\N{SNOWMAN}" * 100_000)).encode()) < 4000


def test_an_error_of_a_called_model_keeps_its_code() -> None:
    """As Triton (2.51) words them: a BLS call that fails has the status INTERNAL whatever happened."""
    for text, code, sentence in (
        ("dyndet/bad-threshold: it is 2", "bad-threshold", "it is 2"),
        ("Model head1 - Error: Model 'head1' is not ready.", "not-ready", "stage head1 failed: it is not ready"),
        (
            "Model head1 - Error: Server not ready",
            "server-stopping",
            "stage head1 failed: the server is stopping",
        ),
        ("Request timeout expired", "deadline-exceeded", "stage head1 failed: the time that the request allowed"),
        (
            "Request for unknown model: 'head1' has no available versions",
            "not-ready",
            "stage head1 failed: it is not ready",
        ),
        ("out of memory", "stage-failed", "stage head1 failed: the server's log says why"),
        ("dyndet/never-heard-of: it", "stage-failed", "stage head1 failed: the server's log says why"),
    ):
        error = refusals.error_of_call("stage head1", text)
        assert text in error.explained or error.was_counted  # the log has it all
        assert str(error).startswith(f"dyndet/{code}: {sentence}")
        assert error.status == refusals.STATUSES[code]
