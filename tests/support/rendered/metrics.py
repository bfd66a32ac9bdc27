"""Reads a server's metrics."""

from __future__ import annotations

import http.client
import re
import time

from dyndet_builder.server.triton import TritonServer


def metric(server: TritonServer, name: str, **labels: str) -> float:
    """The value of a metric, once all requests are counted; a counter that was never touched is 0."""
    before = None
    while (value := metric_now(server, name, **labels)) != before:  # counted once no request comes for a while
        before = value
        time.sleep(0.15)
    return value


def metric_now(server: TritonServer, name: str, **labels: str) -> float:
    """The same at once."""
    address = re.sub(r"^https?://|/metrics$", "", server.metrics_url)
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    for line in text.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return 0.0
