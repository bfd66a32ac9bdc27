"""Headers that a server gives to its models as parameters of a request, for gateways that cannot change a request."""

from __future__ import annotations

_FORWARDED = "dyndet_"  # a part of the name
FORWARDING = (f"--grpc-header-forward-pattern={_FORWARDED}", f"--http-header-forward-pattern={_FORWARDED}")
"""Triton's flags for these headers"""
