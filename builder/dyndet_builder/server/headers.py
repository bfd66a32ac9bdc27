"""Headers that a server gives to its models as parameters of a request, for gateways that cannot change a request."""

from __future__ import annotations

_FORWARDED = "dyndet_(tenant|priority|deadline_ms)"
FORWARDING = (
    f"--grpc-header-forward-pattern={_FORWARDED}",
    f"--http-header-forward-pattern=(?i){_FORWARDED}",  # HTTP leaves the case of a header open
)
"""Triton's flags for these headers"""
