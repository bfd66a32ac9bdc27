"""Says whether the detectors of the Triton server beside it answer: `probe.py startup|readiness|liveness DETECTOR...`.

It sends a tiny picture down both routes of every detector, because Triton's own health endpoints answer 200 even if the
process of a model is dead. The exit status is 0 if all is well, else 1; it prints one sentence.

- startup: the server is ready, and both routes of every detector answer, the hard one with detector 2.
- readiness: the server is ready, and both routes of every detector answer within the bound.
- liveness: fails only if the server, or a process of a model, is dead or hung. If the pictures are not answered in
  time, Triton's counters decide: a server whose models go on answering others is busy, not dead.

Needs only Python's standard library; it runs in the image, beside the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROUTES = {1.0: "easy", 0.0: "hard"}  # by threshold
_HARD = 2  # value of the output `route`; negative: detector 1 answered in place of detector 2
_CONTROL_S = 4.0  # for health, configuration and counters, which need no model
_POLL_S = 0.5
_SAMPLE = re.compile(r'^(\w+)\{[^}\n]*?model="([^"]+)"[^}\n]*\} (\S+)$', re.MULTILINE)
_REASON = re.compile(r'reason="(\w+)"')
_OVERLOAD = {"CANCELED", "REJECTED"}  # the caller gave up, or the queue was full: not the model's fault
_REFUSED = {"bad_request", "cancelled", "refused", "overloaded"}  # errors of a detector that works
_ENCODED = "_encoded"
_KEY = "DYNDET_ADMIN_KEY"
_STUB = b"triton_python_backend_stub"


class NoAnswerError(Exception):
    """The server or a detector answered nothing, or an error; the text is a sentence."""


class FallbackError(Exception):
    """Detector 1 answered in place of detector 2; the text is a sentence."""


@dataclass(frozen=True)
class Server:
    """The server on this machine."""

    http_port: int
    metrics_port: int

    def check_health(self, kind: str) -> None:
        """Raise NoAnswerError if `live` or `ready` is not answered with 200."""
        _ask(self.http_port, f"/v2/health/{kind}", about="the server")

    def check_routes(self, detector: str, *, within_s: float, strict: bool) -> None:
        """Raise NoAnswerError if not both routes answer within a time, and FallbackError for an answer by detector 1.

        The latter only with `strict`.
        """
        config = json.loads(_ask(self.http_port, f"/v2/models/{detector}/config", about=detector))
        picture, data = _picture(config["input"])
        deadline = time.monotonic() + within_s
        for threshold, name in _ROUTES.items():
            route = self._route(detector, picture, data, threshold, deadline - time.monotonic())
            if strict and name == "hard" and route != _HARD:
                raise FallbackError(f"{detector} answered the hard route without detector 2 (route {route})")

    def counted(self) -> Counted:
        """Triton's counters now."""
        return Counted.parse(_ask(self.metrics_port, "/metrics", about="the metrics port").decode())

    def _route(self, detector: str, picture: dict[str, Any], data: bytes, threshold: float, within_s: float) -> int:
        head = {
            "parameters": {"dyndet_probe": True, "timeout": max(1, int(1e6 * within_s))},
            "inputs": [
                picture | {"parameters": {"binary_data_size": len(data)}},
                {"name": "threshold", "shape": [1, 1], "datatype": "FP32", "data": [threshold]},
            ],
            # With an output of the detectors; the route alone would need none of them.
            "outputs": [{"name": "route"}, {"name": "num_detections"}],
        }
        text = json.dumps(head).encode()
        headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
        if key := os.environ.get(_KEY):  # a server may restrict inference over HTTP
            headers["dyndet-admin"] = key
        path, about = f"/v2/models/{detector}/infer", f"the {_ROUTES[threshold]} route of {detector}"
        answer = _ask(self.http_port, path, text + data, headers, about=about, within_s=within_s)
        outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
        return int(outputs["route"][0])


def _ask(
    port: int,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    about: str,
    within_s: float = _CONTROL_S,
) -> bytes:
    if within_s <= 0:
        raise NoAnswerError(f"there was no time left for {about}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within_s)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswerError(f"{about} gave no answer: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        said = content.decode(errors="replace").strip() or answer.reason
        raise NoAnswerError(f"{about} gave status {answer.status}: {said[:300]}")
    return content


def _picture(inputs: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], bytes]:
    """A grey picture as a detector takes it, pixels or a PNG file, and its bytes."""
    spec = next(each for each in inputs if each["name"] != "threshold")
    if spec["data_type"] != "TYPE_STRING":
        height, width, channels = (int(size) for size in spec["dims"])
        shape = [1, height, width, channels]
        return {"name": spec["name"], "shape": shape, "datatype": "UINT8"}, bytes([114]) * (height * width * channels)
    side = 8
    rows = b"".join(b"\0" + bytes([114]) * (3 * side) for _ in range(side))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return {"name": spec["name"], "shape": [1, 1], "datatype": "BYTES"}, struct.pack("<I", len(file)) + file


@dataclass(frozen=True)
class Counted:
    """What the server has counted, by model."""

    answers: Counter[str] = field(default_factory=Counter)
    """by Triton, for which the errors of a Python model are answers, too"""
    routed: Counter[str] = field(default_factory=Counter)
    """by the detectors themselves: answers, and refusals of what nobody could answer"""
    failures: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)

    @classmethod
    def parse(cls, text: str) -> Counted:
        """Read the metrics port's text."""
        found = cls()
        for sample in _SAMPLE.finditer(text):
            name, model, value = sample[1], sample[2], int(float(sample[3]))
            reason = _REASON.search(sample[0])
            if name == "nv_inference_request_success":
                found.answers[model] += value
            elif name == "nv_inference_request_failure" and reason and reason[1] not in _OVERLOAD:
                found.failures[model] += value
            elif name in ("nv_inference_pending_request_count", "dyndet_queue"):
                found.waiting[model] += value
            elif name == "dyndet_routed_total" or (
                name == "dyndet_requests_failed_total" and reason and reason[1] in _REFUSED
            ):
                found.routed[model] += value
        return found

    def stuck(self, before: Counted, asked: Sequence[str]) -> list[str]:
        """The models that answered nothing since `before` although they had work.

        The detectors `asked` in vain had some, too: the probe's picture. That counts only if no model is busy, because
        then it may wait for a model that another one calls. A model with waiting requests is not stuck, either, while a
        model that it calls is busy: its turn there has not come.
        """
        moved = {model for model in self.answers if self._answered(model) != before._answered(model, like=self)}
        busy = [model for model in moved if self.waiting[model] > 0 or model in asked]
        return [
            model
            for model in self.answers
            if model not in moved
            and (
                self.failures[model] > before.failures[model]
                or (self.waiting[model] > 0 and not any(_calls(model, other) for other in busy))
                or (model in asked and not busy)
            )
        ]

    def _answered(self, model: str, like: Counted | None = None) -> int:
        return (self.routed if model in (like or self).routed else self.answers)[model]


def _calls(model: str, other: str) -> bool:
    """Whether `model` may wait for an answer of `other`: a detector for its stages, NAME_encoded for NAME, too."""
    name = model.removesuffix(_ENCODED)
    if other == name:
        return model != name
    return other.startswith(f"{name}_") and not other.endswith(_ENCODED)


@dataclass(frozen=True)
class Stubs:
    """The processes of the Python backend's models: those now, and those that startup noted in a file."""

    file: Path
    server: int | None = None
    """process id of their server; None: any, for a container has only one"""

    def note(self) -> None:
        """Write down how many there are."""
        self.file.write_text(json.dumps(self._running()))

    def missing(self) -> str:
        """A folder of a model that has fewer than noted; empty if none has, or nothing was noted."""
        try:
            noted = json.loads(self.file.read_bytes())
        except (OSError, ValueError):
            return ""
        now = self._running()
        return next((folder for folder, count in noted.items() if now[folder] < count), "")

    def _running(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # it has just ended
                continue
            if len(words) > 1 and words[0].endswith(_STUB) and self.server in (None, parent):
                found[str(Path(words[1].decode(errors="replace")).parent.parent)] += 1
        return found


def _startup(server: Server, detectors: Sequence[str], within_s: float, stubs: Stubs) -> str:
    said = _answers(server, detectors, within_s, strict=True)
    stubs.note()
    return said


def _readiness(server: Server, detectors: Sequence[str], within_s: float, _stubs: Stubs) -> str:
    return _answers(server, detectors, within_s, strict=False)


def _answers(server: Server, detectors: Sequence[str], within_s: float, *, strict: bool) -> str:
    server.check_health("ready")
    for detector in detectors:
        server.check_routes(detector, within_s=within_s / len(detectors), strict=strict)
    return f"{', '.join(detectors)} answered"


def _liveness(server: Server, detectors: Sequence[str], within_s: float, stubs: Stubs) -> str:
    server.check_health("live")
    if missing := stubs.missing():
        raise NoAnswerError(f"a process of the model in {missing} is gone, and Triton does not replace it")
    before = server.counted()
    failed: dict[str, str] = {}
    silent: list[str] = []
    for detector in detectors:
        try:
            server.check_routes(detector, within_s=within_s / len(detectors), strict=True)
        except NoAnswerError as error:
            failed[detector] = str(error)
            silent.append(detector)
        except FallbackError as error:
            failed[detector] = str(error)
    if not failed:
        return f"{', '.join(detectors)} answered"
    reasons, deadline = "; ".join(failed.values()), time.monotonic() + within_s
    while stuck := server.counted().stuck(before, silent):
        if time.monotonic() > deadline:
            raise NoAnswerError(f"{', '.join(stuck)} answered nothing: {reasons}")
        time.sleep(min(_POLL_S, within_s))
    return f"busy, but not stuck: {reasons}"


_KINDS = {"startup": _startup, "readiness": _readiness, "liveness": _liveness}


def main(words: Sequence[str] | None = None) -> int:
    """Run a probe; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=tuple(_KINDS))
    parser.add_argument("detectors", nargs="+", metavar="DETECTOR", help="public model to ask")
    parser.add_argument(
        "--within",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="bound for the answers (default: %(default)s); liveness waits as long again for others' answers",
    )
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--server", type=int, metavar="PID", help="process of the server (default: the only one)")
    parser.add_argument("--notes", type=Path, default=Path("/tmp/dyndet-probe.json"), help="what startup writes down")
    options = parser.parse_args(words)
    server, stubs = Server(options.http_port, options.metrics_port), Stubs(options.notes, options.server)
    try:
        said = _KINDS[options.kind](server, options.detectors, options.within, stubs)
    except (NoAnswerError, FallbackError) as error:
        sys.stdout.write(f"{options.kind} failed: {error}\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
