"""What a user may ask calibration for, and how it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass

import click

from dynamicdet.errors import InputError

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d{1,3}))?"
_MS_PER_UNIT = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_ACCEPTED = "a mean latency such as 12ms or 0.012s, or a share of the way from all-easy to all-hard such as 50%"


@dataclass(frozen=True)
class MeanLatency:
    """The mean latency over all requests, milliseconds."""

    text: str
    ms: float

    def resolve_ms(self, lat1_ms: float, lat2_ms: float) -> float:
        """The latency to reach, on a server with these all-easy and all-hard latencies."""
        return self.ms


@dataclass(frozen=True)
class ShareOfRange:
    """A share of the way from the all-easy (0) to the all-hard (1) mean latency, whatever these are on this machine."""

    text: str
    share: float

    def resolve_ms(self, lat1_ms: float, lat2_ms: float) -> float:
        """The latency to reach, on a server with these all-easy and all-hard latencies."""
        return lat1_ms + self.share * (lat2_ms - lat1_ms)


Target = MeanLatency | ShareOfRange


def parse_target(text: str) -> Target:
    """Read a target. Raises InputError for anything but the two kinds that are accepted.

    >>> parse_target("0.012 s")
    MeanLatency(text='0.012s', ms=12.0)
    >>> parse_target("50%")
    ShareOfRange(text='50%', share=0.5)
    """
    compact = "".join(text.split())
    if re.fullmatch(r"(p\d.*|throughput):.*", compact, flags=re.IGNORECASE):
        raise InputError(f"target {text!r}: percentiles and throughput cannot be asked for yet; give {_ACCEPTED}")
    match = re.fullmatch(rf"{_NUMBER}(us|µs|ms|s|%)", compact)
    if match is None:
        raise InputError(f"target {text!r} is not understood; give {_ACCEPTED}")
    number = float(f"{match[1]}e{match[2] or 0}")
    if match[3] == "%":
        if number > 100:
            raise InputError(f"target {text!r} is beyond the all-hard end of the range; give 0% to 100%")
        return ShareOfRange(compact, number / 100)
    ms = number * _MS_PER_UNIT[match[3]]
    if not 0 < ms < 1e9:
        raise InputError(f"target {text!r} is no latency a server can have; give {_ACCEPTED}")
    return MeanLatency(compact, ms)


class TargetParameter(click.ParamType):  # type: ignore[type-arg]
    """A click parameter that takes a latency target."""

    name = "target"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        """Parse what was typed. Raises InputError."""
        return value if isinstance(value, MeanLatency | ShareOfRange) else parse_target(str(value))
