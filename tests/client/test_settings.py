"""Addresses, certificates, headers, retries: what is accepted, and the sentence for what is not."""

import asyncio
import inspect
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import RetryCallState, Retrying

from dyndet_client import (
    AbandonedCalls,
    AsyncDetector,
    BadRequestError,
    Detector,
    InputError,
    KeepAlive,
    ModelNotReadyError,
    OverloadedError,
    Retries,
    ServerUnreachableError,
    Tls,
)
from dyndet_client.address import parse_address
from dyndet_client.codec import Options
from dyndet_client.retrying import Deadline, policy
from dyndet_client.settings import Connection


@pytest.mark.parametrize(
    ("url", "protocol", "tls", "address"),
    [
        ("localhost", "grpc", False, "localhost:8001"),
        (" host:1/ ", "grpc", False, "host:1"),
        ("grpcs://10.0.0.2", "grpc", True, "10.0.0.2:8001"),
        ("HTTP://[::1]", "http", False, "[::1]:8000"),
        ("https://triton.example.org:443", "http", True, "triton.example.org:443"),
    ],
)
def test_an_address_says_what_is_spoken_there(url, protocol, tls, address) -> None:
    found = parse_address(url)
    assert (found.protocol, found.tls, str(found)) == (protocol, tls, address)


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        found = parse_address(text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert 0 < found.port < 65536 and str(found).isprintable() and " " not in found.host
        assert parse_address(f"{found.protocol}://{found}").port == found.port


@pytest.mark.parametrize(
    ("url", "local"),
    [("localhost", True), ("127.8.0.1:9", True), ("[::1]", True), ("127.0.0.1.evil.org", False), ("10.0.0.1", False)],
)
def test_loopback_is_known_by_its_name(url: str, local: bool) -> None:
    assert parse_address(url).is_loopback == local


def test_contradictions_are_refused(tmp_path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text("-----BEGIN CERTIFICATE-----\n")
    text = tmp_path / "notes.txt"
    text.write_text("no certificate")
    large = tmp_path / "large.pem"
    with large.open("wb") as file:
        file.truncate(8 << 20)
    for make, reason in (
        (lambda: Connection.make("grpc://host", tls=Tls(ca_file=pem)), "without TLS"),
        (lambda: Connection.make("host", token="a", headers={"Authorization": "b"}), "exclude each other"),
        (lambda: Connection.make("host", headers={"a b": "c"}), "not a header name"),
        (lambda: Connection.make("host", headers={"a": "secret\r\nx: y"}), "must be printable"),
        (lambda: Tls(certificate_file=pem), "both"),
        (lambda: Tls(ca_file=tmp_path / "absent.pem"), "cannot be read"),
        (lambda: Tls(ca_file=text), "no certificate"),
        (lambda: Tls(ca_file="/dev/null"), "not a regular file"),
        (lambda: Tls(ca_file=large), "too large"),
        (lambda: Retries(attempts=0), "attempts"),
        (lambda: KeepAlive(interval_s=0), "interval_s"),
        (lambda: Detector("host", transport="pigeon"), "auto, network"),
        (lambda: Detector("host").detect_many([], concurrency=0), "concurrency"),
        (lambda: Detector("host").detect_many([], errors="ignore"), "errors"),
        (lambda: Detector("host").detect_many("street.jpg"), "not one image"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            make()
        assert "secret" not in str(caught.value)
    assert Connection.make("host", tls=Tls(ca_file=pem)).tls and Connection.make("https://host").tls
    assert "secret" not in repr(Connection.make("host", token="secret"))


_VAST = 10**5000  # Python makes no text of it


@pytest.mark.parametrize("kind", [Detector, AsyncDetector])
@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 5} for name in ("url", "model", "transport", "tls", "headers", "token", "retries", "keep_alive")),
        *({name: _VAST} for name in ("model", "timeout", "transport")),
        {"model": "dyn\ndet"},
        {"headers": {5: "x"}, "token": "y"},
        {"headers": {"x": 5}},
    ],
)
def test_wrong_types_are_refused_where_a_detector_is_made(kind, wrong) -> None:
    with pytest.raises(InputError, match="address" if "url" in wrong else next(iter(wrong))[:6]) as caught:
        kind(**{"url": "host", **wrong})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (KeepAlive, {"interval_s": 1e300}),
        (KeepAlive, {"timeout_s": 1e-9}),
        (AbandonedCalls, {"grace_s": 1e18}),
        (KeepAlive, {"while_idle": None}),
        (Retries, {"first_wait_s": 10**400}),
        (Retries, {"attempts": "3"}),
        (Tls, {"ca_file": 5}),
        (Options, {"threshold": 10**400}),
        (Options, {"min_score": _VAST}),
        (Options, {"operating_point": 5}),
        (Options, {"request_id": 5}),
        (Detector("host").detect_many, {"images": 5}),
        (Detector("host").detect_many, {"images": [], "timeout": 10**400}),
        (Detector("host").detect_many, {"images": [], "concurrency": _VAST}),
        (AsyncDetector("host").detect_many, {"images": 5}),
    ],
)
def test_wrong_values_are_named(make, wrong) -> None:
    with pytest.raises(InputError, match="images" if wrong == {"images": 5} else list(wrong)[-1]):
        make(**wrong)


@pytest.mark.parametrize("url", ["host", "http://host"])
@pytest.mark.parametrize(
    "name", ["", ":path", "a b", "a\nb", "größe", "Transfer-Encoding", "content-length", "TE", "Content-Encoding"]
)
def test_headers_that_cannot_be_sent_are_refused(url: str, name: str) -> None:
    with pytest.raises(InputError, match="header") as caught:
        Connection.make(url, headers={name: "secret"})
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_headers_of_grpc_itself_are_refused_there() -> None:
    for name in ("trace-bin", "X-BIN", "grpc-timeout"):
        with pytest.raises(InputError, match=f"header {name} cannot be sent"):
            Connection.make("host", headers={name: "x"})
        assert Connection.make("http://host", headers={name: "x"}).headers == {name.lower(): "x"}


def test_an_async_detector_belongs_to_one_event_loop() -> None:
    detector = AsyncDetector("127.0.0.1:9", retries=Retries(attempts=1))

    async def detect_many() -> None:
        async for _ in detector.detect_many([b""], errors="return"):
            pass

    with pytest.raises(ServerUnreachableError):
        asyncio.run(detector.connect())
    for again in (detector.connect, lambda: detector.detect(b""), detect_many, detector.close):
        with pytest.raises(InputError, match="belongs to the event loop that used it first"):
            asyncio.run(again())


def test_a_forked_process_is_told_at_once_to_create_its_own_detector() -> None:
    reader, writer = os.pipe()
    detector = Detector("127.0.0.1:1", timeout=60)
    child = os.fork()
    if child == 0:
        try:
            detector.connect()
        except InputError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    assert said == "this detector belongs to the process that this one was forked from; create one here"
    detector.close()


def test_damaged_certificates_are_named(tmp_path) -> None:
    pytest.importorskip("aiohttp")
    pem = tmp_path / "ca.pem"
    pem.write_text("-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")
    with pytest.raises(InputError, match="damaged"):
        Detector("https://127.0.0.1:9", tls=Tls(ca_file=pem)).connect()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.floats(0.01, 1), st.floats(0.01, 5))
def test_waits_are_random_grow_and_are_bounded(attempt: int, first: float, longest: float) -> None:
    wait = policy(Retries(first_wait_s=first, longest_wait_s=longest), Deadline(1))["wait"]
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    assert 0 <= wait(state) <= min(first * 2 ** (attempt - 1), longest) + 1e-9


def test_only_what_may_help_is_tried_again_and_only_while_there_is_time() -> None:
    def count(error: Exception, retries: Retries, total_s: float = 5) -> int:
        tried = []

        def fail() -> None:
            tried.append(1)
            raise error

        with pytest.raises(type(error)):
            Retrying(**policy(retries, Deadline(total_s)), sleep=lambda _seconds: None)(fail)
        return len(tried)

    assert count(ServerUnreachableError("gone"), Retries(attempts=4)) == 4
    assert count(ServerUnreachableError("gone"), Retries(attempts=4), total_s=1e-9) == 1
    assert count(BadRequestError("no"), Retries(attempts=4)) == 1
    assert count(InputError("no"), Retries(attempts=4)) == 1
    overloaded = OverloadedError("full", retry_after_s=2.0)
    assert count(overloaded, Retries(attempts=4)) == 2
    assert count(overloaded, Retries(attempts=1)) == 1
    assert count(overloaded, Retries(attempts=4), total_s=2) == 1  # the wait is at least as long
    assert count(OverloadedError("full"), Retries(attempts=4)) == 1
    assert count(ModelNotReadyError("loading"), Retries(attempts=4)) == 1
    assert count(ModelNotReadyError("loading"), Retries(attempts=4, on_not_ready=True)) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        *({"deadline": value} for value in (0, -1, float("nan"), float("inf"), True, "70ms", _VAST)),
        *({"priority": value} for value in (-1, 10, 2.0, True, "high", _VAST)),
        *({"tenant": value} for value in ("", "a b", "a/b", "Größe", "a" * 65, "a\n", 5)),
    ],
)
def test_terms_of_a_call_that_the_server_would_refuse_are_named(wrong) -> None:
    (name,) = wrong
    detector = Detector("127.0.0.1:9")
    for make in (
        lambda: Detector("host", **wrong),
        lambda: AsyncDetector("host", **wrong),
        lambda: detector.detect(b"", **wrong),
        lambda: detector.detect_many([], **wrong),
    ):
        with pytest.raises(InputError, match=rf"^{name} must be .*, not "):
            make()


SIGNATURES = {
    "__init__": "url, model, timeout, transport, tls, headers, token, retries, keep_alive, abandoned_calls, "
    "deadline, priority, tenant, masks",
    "connect": "",
    "detect": "image, threshold, operating_point, min_score, timeout, request_id, deadline, priority, tenant, masks",
    "detect_many": "images, concurrency, errors, threshold, operating_point, min_score, timeout, "
    "deadline, priority, tenant, masks",
    "close": "",
}


def test_both_detectors_have_the_same_names_and_parameters() -> None:
    """Removing or renaming one breaks programs of users."""

    def public(kind: type) -> dict[str, dict[str, object]]:
        names = [name for name in dir(kind) if not name.startswith("_") or name == "__init__"]
        methods = {name: getattr(kind, name) for name in names if callable(getattr(kind, name))}
        return {
            name: {key: value.default for key, value in inspect.signature(method).parameters.items() if key != "self"}
            for name, method in methods.items()
        }

    assert public(Detector) == public(AsyncDetector)
    assert {name: ", ".join(parameters) for name, parameters in public(Detector).items()} == SIGNATURES
    for name in ("class_names", "fit", "input_size", "transport"):
        assert isinstance(getattr(Detector, name), property) and isinstance(getattr(AsyncDetector, name), property)


def test_making_a_detector_sends_nothing_and_leaves_nothing() -> None:
    before = threading.active_count()
    detector = Detector("http://host.invalid")
    detector.close()
    detector.close()
    assert threading.active_count() == before

    async def make() -> None:
        unused = AsyncDetector("host.invalid")
        with pytest.raises(InputError, match="not connected"):
            _ = unused.class_names
        await unused.close()
        with pytest.raises(InputError, match="closed"):
            await unused.detect(b"")

    asyncio.run(make())
