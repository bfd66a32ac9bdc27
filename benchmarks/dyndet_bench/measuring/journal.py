"""Every measurement goes to disk as soon as it is made, so an interruption loses only the one under way.

A journal is a file of lines, one measurement each: the question that it answers, the values, the machine, versions,
command and date. The configuration that all measurements of a file depend on is in a file beside it. A command that is
typed again takes what is recorded, and measures the rest.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, ClassVar, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import to_jsonable_python

from dynamicdet.errors import InputError
from dynamicdet.files import whole_file
from dynamicdet.records import UNREADABLE, Finite, check_regular, read_bytes
from dynamicdet.text import printable
from dyndet_bench.measuring.machine import Circumstances, circumstances, describe_machine, describe_versions

Measured = TypeVar("Measured")

RESUMED_S = 24 * 3600.0
"""benches do not use measurements that are older"""
LARGEST = 256 << 20
"""bytes of a journal; larger ones are not read"""
_ADVICE = "remove it, or give another folder for measurements"
_MOST_FACTS, _LONGEST = 1000, 20_000
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?)?")


def _check_date(text: str) -> str:
    if not _DATE.fullmatch(text):
        raise ValueError("it is not a date")
    return text


def _check_circumstances(found: Circumstances) -> Circumstances:
    texts = [*found.machine, *found.machine.values(), *found.versions, *found.versions.values(), found.command]
    if len(texts) > _MOST_FACTS or not all(text.isprintable() and len(text) <= _LONGEST for text in texts):
        raise ValueError("machine, versions and command must be short printable texts")
    _check_date(found.date)
    return found


Date = Annotated[str, AfterValidator(_check_date)]
"""ISO 8601, a day or a moment"""
SafeCircumstances = Annotated[Circumstances, AfterValidator(_check_circumstances)]
"""where, with what and when something was measured, as a file of others may contain it"""


class _Line(BaseModel, Generic[Measured]):
    """A measurement as it is written; any other line is damaged."""

    model_config = ConfigDict(extra="forbid", strict=True)

    time: Finite
    question: JsonValue
    measured: Measured
    circumstances: SafeCircumstances


class _Fresh(BaseModel):
    """A line that starts anew: the measurements before it no longer count."""

    model_config = ConfigDict(extra="forbid", strict=True)

    fresh: Finite


@dataclass(frozen=True)
class Entry(Generic[Measured]):
    """A measurement."""

    measured: Measured
    time: float
    """when it was made, seconds since 1970"""
    replayed: bool
    """whether an earlier run of the command made it"""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """The measurements of a result that an earlier run of the command made."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # for the records that hold it

    measurements: Annotated[int, Field(ge=1, le=10**9)]
    oldest: Date
    """when the oldest of them was made, UTC, ISO 8601"""

    def __str__(self) -> str:
        """A sentence for the user."""
        many = self.measurements != 1
        made = f"{self.measurements} measurements are" if many else "One measurement is"
        return f"{made} from an earlier run ({'the oldest of ' if many else ''}{self.oldest}); --fresh repeats them."

    @classmethod
    def together(cls, parts: Iterable[Replayed | None]) -> Replayed | None:
        """Those of several parts of a result; None if there are none."""
        found = [part for part in parts if part is not None]
        if not found:
            return None
        return cls(measurements=sum(part.measurements for part in found), oldest=min(part.oldest for part in found))


@dataclass(frozen=True, kw_only=True)
class JournalFolder:
    """A folder of journals, one for everything that a measurement depends on."""

    folder: Path
    newest_s: float = RESUMED_S
    """measurements older than this many seconds do not count: machines change their speed"""
    fresh: bool = False
    """whether the measurements that are there already do not count"""
    subject: Mapping[str, object] = field(default_factory=dict)
    """what all measurements depend on beside what the bench knows, such as the hash of a repository"""

    def about(self, **subject: object) -> JournalFolder:
        """The same folder for measurements that also depend on these."""
        return replace(self, subject={**self.subject, **subject})

    def open(self, identity: Mapping[str, object], kind: type[Measured]) -> Journal[Measured]:
        """The journal of measurements that depend on `identity`, this machine and the installed versions.

        `kind` is the type of a measurement, anything that pydantic reads. Raises InputError as `Journal` does.
        """
        whole = {**identity, **self.subject, "client": describe_machine(), "versions": describe_versions()}
        return Journal(self.folder, whole, kind, newest_s=self.newest_s, fresh=self.fresh)


class Journal(Generic[Measured]):
    """The recorded measurements of one kind that depend on the same things. Each is given out once.

    Whatever is damaged in its file is measured again. Raises InputError if the folder cannot be written, or if
    something else than a file of a bearable size is in its place.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, object],
        kind: type[Measured],
        *,
        newest_s: float,
        fresh: bool = False,
    ) -> None:
        """`identity` is everything that a measurement depends on; those older than `newest_s` seconds do not count."""
        plain = json.dumps(identity, sort_keys=True, default=str)
        key = hashlib.sha256(plain.encode()).hexdigest()[:16]
        self.path = folder / f"{key}.jsonl"
        self._known: dict[str, list[Entry[Measured]]] = defaultdict(list)
        self._taken: list[Entry[Measured]] = []
        self._here: Circumstances | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            configuration = folder / f"{key}.json"
            if not configuration.exists():
                with whole_file(configuration, durable=False) as temporary:
                    temporary.write_text(json.dumps(json.loads(plain), indent=1) + "\n")
            _check_is_file(self.path)
            with self.path.open("a") as file:
                file.write("\n")  # ends a line whose writing was interrupted
                if fresh:
                    file.write(_Fresh(fresh=time.time()).model_dump_json() + "\n")
        except OSError as error:
            raise InputError(f"measurements cannot be stored in {printable(folder)} ({error.strerror})") from error
        self._read(_Line[kind], time.time() - newest_s)  # type: ignore[valid-type]

    @property
    def replayed(self) -> Replayed | None:
        """The measurements that were taken so far; None if there were none."""
        if not self._taken:
            return None
        oldest = datetime.fromtimestamp(min(entry.time for entry in self._taken), timezone.utc)
        return Replayed(measurements=len(self._taken), oldest=oldest.isoformat(timespec="seconds"))

    def take(self, question: JsonValue, accept: Callable[[Measured], bool] = lambda _: True) -> Entry[Measured] | None:
        """The oldest recorded answer to exactly this question that was not taken yet and is acceptable."""
        entries = self._known[_key(question)]
        for index, entry in enumerate(entries):
            if accept(entry.measured):
                self._taken.append(entry)
                return entries.pop(index)
        return None

    def add(self, question: JsonValue, measured: Measured) -> Entry[Measured]:
        """Record an answer, with the machine, the versions, the command and the date."""
        now = time.time()
        self._here = self._here or circumstances()
        date = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds")
        line = {
            "time": now,
            "question": question,
            "measured": to_jsonable_python(measured),
            "circumstances": to_jsonable_python(replace(self._here, date=date)),
        }
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise InputError(f"measurements cannot be stored in {printable(self.path)} ({error.strerror})") from error
        return Entry(measured, now, replayed=False)

    def _read(self, kind: type[_Line[Measured]], since: float) -> None:
        for text in read_bytes(self.path, advice=_ADVICE, largest=LARGEST).splitlines():
            try:
                line = kind.model_validate_json(text)
            except UNREADABLE:
                if _starts_anew(text):
                    self._known.clear()
                continue  # cut off, or damaged
            if since <= line.time <= time.time():
                self._known[_key(line.question)].append(Entry(line.measured, line.time, replayed=True))


def _check_is_file(path: Path) -> None:
    """Raise InputError if there is something else: a pipe would block for ever, and a link leads elsewhere."""
    if path.is_symlink():
        raise InputError(f"{printable(path)} is a link, not a regular file; {_ADVICE}")
    if path.exists():
        check_regular(path, advice=_ADVICE, largest=LARGEST)


def _starts_anew(text: bytes) -> bool:
    try:
        _Fresh.model_validate_json(text)
    except UNREADABLE:
        return False
    return True


def _key(question: JsonValue) -> str:
    return json.dumps(question, sort_keys=True)
