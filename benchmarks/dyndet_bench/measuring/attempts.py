"""Makes the measurements of a bench one by one: recorded ones are taken, failed ones are tried again, then reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from pydantic import JsonValue

from dynamicdet.errors import DyndetError, InputError, MissingExtraError, ServerError
from dyndet_bench.measuring.journal import Entry, Journal, Measured, Replayed
from dyndet_client.errors import ServerUnreachableError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A measurement that could not be made."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # for the records that hold it

    what: str
    reason: str

    def __str__(self) -> str:
        """One line for the user."""
        return f"{self.what}: {self.reason}"


def try_twice(measure: Callable[[], T]) -> T:
    """What a measurement returns; if it fails, it is tried once more.

    If the server is gone, an input is wrong or a program is missing, a second try would not help.
    """
    try:
        return measure()
    except (ServerUnreachableError, InputError, MissingExtraError):
        raise
    except DyndetError:
        return measure()


class Attempts(Generic[Measured]):
    """The measurements of one bench. Once the server is gone, none is made; recorded ones still count."""

    def __init__(self, journal: Journal[Measured] | None) -> None:
        self.missing: list[Missing] = []
        """measurements that failed twice, in their order"""
        self._journal = journal
        self._gone: ServerUnreachableError | None = None

    @property
    def replayed(self) -> Replayed | None:
        """Those that an earlier run made; None if there are none."""
        return None if self._journal is None else self._journal.replayed

    @property
    def server_is_gone(self) -> bool:
        """Whether the server died."""
        return self._gone is not None

    def recorded(self, question: JsonValue) -> list[Entry[Measured]]:
        """All recorded answers to `question`, the oldest first. Each is given out once."""
        entries = []
        while self._journal is not None and (entry := self._journal.take(question)) is not None:
            entries.append(entry)
        return entries

    def measure(
        self,
        question: JsonValue,
        measure: Callable[[], Measured],
        *,
        what: str,
        accept: Callable[[Measured], bool] = lambda _: True,
    ) -> Entry[Measured] | None:
        """The recorded answer to `question`, else a new one; None if it failed twice, which is reported as `what`.

        Recorded answers that `accept` refuses do not count.

        Raises InputError and MissingExtraError, which concern all measurements.
        """
        entry = None if self._journal is None else self._journal.take(question, accept)
        return entry or self.measure_now(question, measure, what=what)

    def measure_now(self, question: JsonValue, measure: Callable[[], Measured], *, what: str) -> Entry[Measured] | None:
        """A new answer to `question`, as `measure` makes it."""
        if self._gone is not None:
            self.missing.append(Missing(what=what, reason=str(self._gone)))
            return None
        try:
            measured = try_twice(measure)
        except (InputError, MissingExtraError):
            raise
        except DyndetError as error:
            self._gone = error if isinstance(error, ServerUnreachableError) else None
            self.missing.append(Missing(what=what, reason=str(error)))
            return None
        if self._journal is None:
            return Entry(measured, time.time(), replayed=False)
        return self._journal.add(question, measured)


def check_any(missing: Sequence[Missing], found: int) -> None:
    """Raise ServerError, with the first reason, if nothing could be measured."""
    if missing and not found:
        raise ServerError(f"nothing could be measured; {missing[0]}")
