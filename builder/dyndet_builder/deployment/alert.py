"""An alert of Prometheus as data."""

from __future__ import annotations

from dataclasses import dataclass

from dyndet_builder.deployment.series import recorded
from dyndet_builder.quoting import promql


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Fires when `value` has been beyond its limit for some time."""

    name: str
    value: str
    """PromQL that has data whenever the server serves, except with `needs_gpu`"""
    beyond: str
    """the comparison, such as `> 12`"""
    lasts: str
    severity: str
    summary: str
    """a Go template, as `description`"""
    description: str
    needs_gpu: bool = False

    @property
    def expr(self) -> str:
        """The whole condition."""
        return f"{self.value} {self.beyond}"


def share_alert(
    job: str, name: str, reasons: str, most: float, *, severity: str, summary: str, description: str
) -> Alert:
    """An alert on the share of all requests that fail for certain reasons."""
    some = f'sum by (job) (dyndet:failures:rate5m{{job={promql(job)},reason=~"{reasons}"}})'
    asked = recorded("asked:rate5m", job)
    return Alert(
        name=name,
        value=f"({some} or 0 * {asked}) / ({asked} > 0)",
        beyond=f"> {most:g}",
        lasts="5m",
        severity=severity,
        summary=summary,
        description=f"{{{{ $value | humanizePercentage }}}} {description}",
    )
