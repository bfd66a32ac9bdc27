"""The latency or throughput that a user can promise, and how it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dynamicdet.errors import InputError
from dyndet_bench.measuring.statistic import MEAN, THROUGHPUT, Statistic

_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,3}))?"
_MS_PER_UNIT = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_ACCEPTED = (
    "a mean latency such as 12ms or 0.012s, a percentile such as p95:15ms, a throughput such as throughput:80/s, or a "
    "share of the way from all-easy to all-hard such as 50%"
)


@dataclass(frozen=True)
class Target:
    """A goal: `value` in the statistic's unit, or as a share of the way from all-easy to all-hard."""

    text: str
    """as the user wrote it, without spaces; also the name of the operating point"""
    statistic: Statistic
    value: float
    of_range: bool = False

    def resolve(self, easy: float, hard: float) -> float:
        """The goal on a server with the statistic `easy` if all images are easy and `hard` if all are hard."""
        return easy + self.value * (hard - easy) if self.of_range else self.value


def parse_target(text: str) -> Target:
    """Read one target. Raises InputError if the text is not a target.

    >>> parse_target("0.012 s")
    Target(text='0.012s', statistic=Statistic(name='mean'), value=12.0, of_range=False)
    >>> parse_target("p95:50%")
    Target(text='p95:50%', statistic=Statistic(name='p95'), value=0.5, of_range=True)
    """
    compact = "".join(text.split())
    name, colon, amount = compact.rpartition(":")
    statistic = _statistic(name.lower(), text) if colon else MEAN
    unit = "/s" if statistic == THROUGHPUT else "us|µs|ms|s"
    match = re.fullmatch(rf"{_NUMBER}({unit}|%)", amount)
    if match is None:
        raise InputError(f"{text!r} is not a target; give {_ACCEPTED}")
    number = float(f"{match[1]}e{match[2] or 0}")
    if match[3] == "%":
        if number > 100:
            raise InputError(f"target {text!r} exceeds the all-hard end of the range; give 0% to 100%")
        return Target(compact, statistic, number / 100, of_range=True)
    value = number * _MS_PER_UNIT.get(match[3], 1.0)
    if not 0 < value < 1e9:
        raise InputError(f"no server can reach the target {text!r}; give {_ACCEPTED}")
    return Target(compact, statistic, value)


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read targets that are separated by commas. Raises InputError if one is not a target or occurs twice."""
    parts = text.split(",")
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise InputError(
            f"targets {text!r} have an extra comma; separate several targets by single commas, such as 10ms,12ms"
        )
    targets = tuple(parse_target(part) for part in parts)
    known: dict[tuple[Statistic, float, bool], str] = {}
    for target in targets:
        other = known.setdefault((target.statistic, target.value, target.of_range), target.text)
        if other is not target.text:
            raise InputError(f"target {target.text!r} occurs twice ({other!r} is the same)")
    return targets


def _statistic(name: str, text: str) -> Statistic:
    try:
        return Statistic(name)
    except InputError as error:
        raise InputError(f"{text!r} is not a target; give {_ACCEPTED}") from error
