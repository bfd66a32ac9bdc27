"""A panel of the dashboard as data."""

from __future__ import annotations

from dataclasses import dataclass

RATE = "[$__rate_interval]"
"""Grafana's variable: a window that fits the shown time"""


@dataclass(frozen=True, kw_only=True)
class Query:
    """PromQL and the legend of its lines, in which Grafana replaces {{label}}."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel of the grid."""

    title: str
    queries: tuple[Query, ...]
    unit: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    needs_gpu: bool = False
    note: str = ""
