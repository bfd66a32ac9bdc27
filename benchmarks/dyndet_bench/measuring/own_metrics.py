"""Reads a detector's own counters from Triton's metrics port (Prometheus text)."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dynamicdet.errors import InputError, ServerError
from dynamicdet.redaction import has_secrets, public_address
from dynamicdet.text import printable

DEFAULT_PORT = 8002
_ROUTED, _PROBED, _DUE = "dyndet_routed_total", "dyndet_probed_total", "dyndet_due_total"
_TIMEOUT_S = 10.0
_LARGEST, _LARGEST_COUNT, _LONGEST_REASON = 16 << 20, 1e15, 300
"""bytes of the metrics, a value of a counter, characters of an error"""
_CATCH_UP_S = 5.0
_POLL_S = 0.03


def default_metrics_url(address: str) -> str:
    """Default URL of the metrics of the server at `host:port`."""
    return f"http://{address.rpartition(':')[0]}:{DEFAULT_PORT}/metrics"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes an error of a redirect: it would lead to an address that nobody gave."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, *_: Any) -> None:
        raise urllib.error.URLError(f"it answers with a redirect, HTTP status {code}, which is not followed")


class OwnMetrics:
    """The metrics of one detector. Nothing is read before the first call, and no proxy is used.

    Raises InputError if the URL is not an http address, or contains a secret: it appears in messages and records.
    """

    def __init__(self, url: str, model: str) -> None:
        if has_secrets(url):
            raise InputError(
                f"the address of metrics {public_address(url)!r} contains a user, a password or a key; give one without"
            )
        self.url = url if "://" in url else f"http://{url}/metrics"
        if not re.match(r"https?://[^/]", self.url):
            raise InputError(
                f"{url!r} is not an address of metrics; give http://host:{DEFAULT_PORT}/metrics or host:port"
            )
        self.patience_s = _CATCH_UP_S
        """how long to wait until all requests are counted"""
        self._without_route: float | None = None
        self._model = model
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    def read(self, name: str) -> Mapping[str, float]:
        """Values of a metric by the label that it has beside the model: its route or stage.

        Raises ServerError if the metrics cannot be read.
        """
        return self._read(name)[name]

    def read_several(self, *names: str) -> Mapping[str, Mapping[str, float]]:
        """`read` for several metrics, at the same moment, as quickly as possible: only their lines are parsed."""
        return self._read(*names, only_their_lines=True)

    def routed(self, *, images: Callable[[], int]) -> tuple[Mapping[str, float], int]:
        """Images by route, and how many failed without one, as soon as all are counted that the server has taken.

        `images` returns how many the server has taken. Triton also counts the images of failed requests, which have no
        route. The first call waits until nothing changes, and finds how many there were. Raises ServerError if what
        came since then is never counted: then these are the metrics of another server.
        """
        deadline = time.monotonic() + self.patience_s
        taken, counted = images(), -1.0
        while True:
            before, found = counted, self._read(_ROUTED, _PROBED, _DUE)
            apart = sum(found[_PROBED].values()) + sum(found[_DUE].values())  # Triton counts those, too
            counted = sum(found[_ROUTED].values()) + apart
            if self._without_route is None and counted == before:
                taken = images()  # once more, since Triton can count an image later than the detector does
                if taken >= counted:
                    self._without_route = taken - counted
            if self._without_route is not None and counted + self._without_route >= taken:
                return found[_ROUTED], int(self._without_route)
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the metrics at {self.url} do not count the images of model {self._model!r} ({counted:.0f}; its "
                    f"server counts {taken}); give the address of that server's metrics with --metrics-url"
                )
            time.sleep(_POLL_S)

    def _read(self, *names: str, only_their_lines: bool = False) -> Mapping[str, Mapping[str, float]]:
        """`read` for several metrics, at the same moment."""
        try:
            text = self._text()
            if only_their_lines:
                starts = tuple(name.encode() for name in names)
                text = b"".join(line for line in text.splitlines(keepends=True) if line.startswith(starts))
            return read_metrics(text, names, model=self._model)
        except (OSError, ValueError, http.client.HTTPException) as error:
            said = error.reason if isinstance(error, urllib.error.URLError) else error
            reason = printable(str(said) or type(said).__name__, limit=_LONGEST_REASON)
            raise ServerError(
                f"the metrics of model {self._model!r} cannot be read at {self.url} ({reason}); "
                "give the address of the server's metrics with --metrics-url"
            ) from error

    def _text(self) -> bytes:
        """What the server answers. Raises TimeoutError if that takes too long as a whole, not only in each part."""
        until_s, text = time.monotonic() + _TIMEOUT_S, bytearray()
        with self._opener.open(self.url, timeout=_TIMEOUT_S) as answer:
            while len(text) <= _LARGEST and (part := answer.read1(1 << 20)):
                text += part
                if time.monotonic() > until_s:
                    raise TimeoutError(f"the answer takes more than {_TIMEOUT_S:.0f} s")
            if answer.length and len(text) <= _LARGEST:
                raise ConnectionError("the answer is cut off")
        return bytes(text)


def read_metrics(content: bytes, names: Sequence[str], *, model: str) -> dict[str, dict[str, float]]:
    """Values of some counters of a model in a text of Prometheus, by the label that they have beside the model.

    Raises ValueError for texts that are too large or of another form, and for values that cannot be counts.
    """
    if len(content) > _LARGEST:
        raise ValueError(f"they have more than {_LARGEST:,} bytes")
    try:
        families = text_string_to_metric_families(content.decode())
        samples = [sample for family in families for sample in family.samples if sample.name in names]
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of the parser, for damaged lines
        raise ValueError(f"they are not metrics ({type(error).__name__}: {error})") from error
    values: dict[str, dict[str, float]] = {name: {} for name in names}
    for sample in samples:
        if sample.labels.get("model") == model:
            if not 0 <= sample.value <= _LARGEST_COUNT:
                raise ValueError(f"{sample.name} has the value {sample.value}")
            key = next((value for label, value in sample.labels.items() if label != "model"), "")
            found = values[sample.name]
            found[key] = found.get(key, 0.0) + sample.value
    return values
