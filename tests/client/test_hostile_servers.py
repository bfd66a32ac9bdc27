"""Servers that send a client elsewhere, or more than it could hold: one sentence, and the secrets stay here."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dyndet_client import Detector, Retries, ServerError
from dyndet_client.senders.answers import LARGEST_JSON

pytest.importorskip("aiohttp")
_MEBIBYTE = b" " * (1 << 20)


class _Server(BaseHTTPRequestHandler):
    """Answers as the first word of `server.kind` says."""

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(str(self.headers))  # type: ignore[attr-defined]
        getattr(self, "_" + server.kind)()  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def _ready(self) -> bool:
        if "/config" in self.path:
            return True
        self._say({}, b"{}")
        return False

    def _redirect(self) -> None:
        self._say({"Location": self.server.elsewhere}, b"", status=307)  # type: ignore[attr-defined]

    def _endless(self) -> None:
        if self._ready():
            self._start({})
            for _ in range(1000):
                self.wfile.write(_MEBIBYTE)

    def _bomb(self) -> None:
        if self._ready():
            packer = zlib.compressobj(9, zlib.DEFLATED, 31)
            packed = b"".join(packer.compress(_MEBIBYTE) for _ in range(100)) + packer.flush()
            self._say({"Content-Encoding": "gzip"}, packed)

    def _deep(self) -> None:
        if self._ready():
            self._say({}, b"[" * 1_000_000)

    def _error(self) -> None:
        self._start({}, status=400)
        for _ in range(1000):
            self.wfile.write(_MEBIBYTE)

    def _packed(self) -> None:
        if self._ready():
            self._say({"Content-Encoding": "deflate"}, zlib.compress(json.dumps({"name": "small"}).encode()))

    def _say(self, headers: dict[str, str], body: bytes, status: int = 200) -> None:
        self._start({**headers, "Content-Length": str(len(body))}, status)
        self.wfile.write(body)

    def _start(self, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client went away
            pass

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serving(kind: str, elsewhere: str = "") -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        server.kind, server.elsewhere, server.asked = kind, elsewhere, []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield server
        server.shutdown()


def _said(server: ThreadingHTTPServer) -> str:
    address = f"http://127.0.0.1:{server.server_port}"
    detector = Detector(address, model="toy", headers={"x-key": "SECRET99"}, retries=Retries(attempts=1))
    try:
        with pytest.raises(ServerError) as caught:
            detector.connect()
    finally:
        detector.close()
    assert caught.value.exit_code == 6
    return str(caught.value)


def test_a_redirect_is_named_and_takes_no_secret_to_another_server() -> None:
    with (
        _serving("packed") as other,
        _serving("redirect", f"http://127.0.0.1:{other.server_port}/SECRET99") as server,
    ):
        said = _said(server)
        assert server.asked and not other.asked  # type: ignore[attr-defined]
    assert "redirect" in said and "SECRET99" not in said


@pytest.mark.parametrize("kind", ["endless", "bomb", "error"])
def test_an_answer_without_end_is_refused_at_a_limit(kind: str) -> None:
    """Whether it is long on the wire, or only once it is unpacked."""
    with _serving(kind) as server:
        assert f"larger than {LARGEST_JSON:,} bytes" in _said(server)


def test_an_answer_that_is_nested_too_deep_is_named_unreadable() -> None:
    with _serving("deep") as server:
        assert "the answer is not from Triton's HTTP endpoint" in _said(server)


def test_a_packed_answer_is_read() -> None:
    with _serving("packed") as server:
        assert "model 'small' is not a dyndet detector" in _said(server)
