"""Reads what a detector counts itself from Triton's metrics port (Prometheus text)."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from dynamicdet.errors import ServerError

DEFAULT_PORT = 8002
_TIMEOUT_S = 10.0
_CATCH_UP_S = 5.0


def default_metrics_url(address: str) -> str:
    """Where the server at `host:port` has its metrics unless it was told otherwise."""
    return f"http://{address.rpartition(':')[0]}:{DEFAULT_PORT}/metrics"


class OwnMetrics:
    """The metrics of one detector. Nothing is read before the first call, and no proxy is asked."""

    def __init__(self, url: str, model: str) -> None:
        self.url = url if "://" in url else f"http://{url}/metrics"
        self.patience_s = _CATCH_UP_S
        """how long to wait until all requests are counted"""
        self._model = model
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read(self, name: str) -> Mapping[str, float]:
        """Values of a metric by the label that it has beside the model: its route or stage.

        Raises ServerError where nothing can be read there.
        """
        try:
            with self._opener.open(self.url, timeout=_TIMEOUT_S) as answer:
                text = answer.read().decode()
            samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise ServerError(
                f"the metrics of model {self._model!r} cannot be read at {self.url} ({reason}); "
                "give the address of the server's metrics with --metrics-url"
            ) from error
        found: dict[str, float] = {}
        for sample in samples:
            if sample.name == name and sample.labels.get("model") == self._model:
                key = next((value for label, value in sample.labels.items() if label != "model"), "")
                found[key] = found.get(key, 0.0) + sample.value
        return found

    def routed(self, *, images: int) -> Mapping[str, float]:
        """Images by route, as soon as all `images` that the server has answered are counted.

        Raises ServerError where they never are: then these are the metrics of another server.
        """
        deadline = time.monotonic() + self.patience_s
        while True:
            found = self.read("dyndet_routed_total")
            counted = int(sum(found.values()))
            if counted >= images and found:
                return found
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the metrics at {self.url} count {counted} images of model {self._model!r}, its server {images}; "
                    "give the address of that server's metrics with --metrics-url"
                )
            time.sleep(0.01)
