"""Metrics are read at the address that was given, whole, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dynamicdet.errors import ServerError
from dyndet_bench.measuring.own_metrics import OwnMetrics
from dyndet_builder.server.api import TritonApi

_COUNTER = 'dyndet_routed_total{model="toy",route="easy"} 3\n'


class _Server(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        is_cut_off = "cut" in self.path
        self.send_response(302 if "away" in self.path else 200)
        self.send_header("Location", "/metrics")
        self.send_header("Content-Length", str(len(_COUNTER) + is_cut_off))
        self.end_headers()
        self.wfile.write(_COUNTER.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    _Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_metrics_are_read_whole_and_without_redirects(address: str) -> None:
    assert OwnMetrics(address, "toy").read("dyndet_routed_total") == {"easy": 3.0}
    with pytest.raises(ServerError, match="redirect, HTTP status 302, which is not followed"):
        OwnMetrics(f"http://{address}/away", "toy").read("dyndet_routed_total")
    with pytest.raises(ServerError, match="cut off"):
        OwnMetrics(f"http://{address}/cut", "toy").read("dyndet_routed_total")
    assert _Server.asked == ["/metrics", "/away", "/cut"]


def test_what_is_asked_beside_detections_is_read_whole_and_without_redirects(address: str) -> None:
    api = TritonApi(address)
    assert api.ask("GET", "/metrics") == (200, _COUNTER.encode())
    assert api.ask("GET", "/away")[0] == 302
    with pytest.raises(ConnectionError, match="cut off"):
        api.ask("GET", "/cut")
    assert _Server.asked == ["/metrics", "/away", "/cut"]
