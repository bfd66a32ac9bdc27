"""The report of `dyndet verify` as Markdown, made to be pasted into an issue."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dynamicdet.files import whole_folder
from dyndet_bench.measuring.machine import summary
from dyndet_builder.verifying.record import Timing, VerifyRecord, Way

_WIDTH = 118  # columns of a paragraph
RECORD_FILE, REPORT_FILE = "verify.json", "verify.md"


def write_report(record: VerifyRecord, folder: Path) -> Path:
    """Write the record and the report into a folder, whole or not at all; an earlier report there is replaced."""
    with whole_folder(folder, marker=RECORD_FILE) as temporary:
        (temporary / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n")
        (temporary / REPORT_FILE).write_text(as_markdown(record))
    return folder / REPORT_FILE


def as_markdown(record: VerifyRecord) -> str:
    """The report as text."""
    seen = record.circumstances
    name = record.detector if record.architecture is None else f"{record.detector} ({record.architecture})"
    parts = [
        f"# dyndet verify: {name}",
        _wrapped(
            f"{record.kind.capitalize()}, {record.precision}, {record.input_size} px, bundle "
            f"`{record.bundle_sha256[:12]}`; {record.images} images. {summary(seen.machine)}; {seen.date}."
        ),
        f"`{seen.command}`",
        _verdict(record),
        "## Checks",
        _listed(f"{'ok' if check.passed else '**FAILED**'}, {check.name}: {check.sentence}" for check in record.checks)
        or "Nothing could be compared here.",
        "## This machine",
        _listed(f"{part.name}: {'' if part.present else 'missing: '}{part.detail}" for part in record.machine),
    ]
    if record.ways:
        parts += ["## Stages, milliseconds", _times(record.ways, "stages")]
        parts += ["## Routes, milliseconds", _times(record.ways, "routes"), _copies(record), _memory(record)]
    if record.served:
        parts += ["## Served, one request at a time", _served(record)]
    if record.points:
        rows = [
            (p.name, f"{p.goal:.4g} {p.unit}", f"{p.reached:.4g} {p.unit}", f"{p.error:+.1%}") for p in record.points
        ]
        parts += ["## Targets of the repository", _table(("operating point", "target", "reached", "error"), rows)]
    if record.skipped:
        parts += ["## Not looked at", _listed(record.skipped)]
    versions = ", ".join(f"{name} {version}" for name, version in seen.versions.items())
    return "\n\n".join([part for part in parts if part] + [_wrapped(f"Versions: {versions}.")]) + "\n"


def _verdict(record: VerifyRecord) -> str:
    failed, count = len(record.failed), len(record.checks)
    if not count:
        return "**No check could be made.**"
    return f"**{failed} of {count} checks failed.**" if failed else f"**All {count} checks passed.**"


def _times(ways: Sequence[Way], what: str) -> str:
    """One row per way and stage or route, one column per batch size."""
    sizes = sorted({size for way in ways for timing in _timings(way, what).values() for size in timing.ms})
    rows = []
    for way in ways:
        for name, timing in _timings(way, what).items():
            rows.append((way.name, name, *(f"{timing.ms[size]:.2f}" if size in timing.ms else "-" for size in sizes)))
    return _table(("", "", *(f"batch {size}" for size in sizes)), rows)


def _timings(way: Way, what: str) -> Mapping[str, Timing]:
    timings: Mapping[str, Timing] = getattr(way, what)
    return timings


def _copies(record: VerifyRecord) -> str:
    """What it costs if features leave the device."""
    size = f"An image's features have {record.features_bytes / 1e6:.2f} MB."
    lines = [
        f"{way.name}: if they go to the CPU and back, batch 1 takes {way.copied['easy'].ms[1]:.2f} instead of "
        f"{way.routes['easy'].ms[1]:.2f} ms (easy), {way.copied['hard'].ms[1]:.2f} instead of "
        f"{way.routes['hard'].ms[1]:.2f} ms (hard)."
        for way in record.ways
        if way.copied and 1 in way.copied["easy"].ms
    ]
    return "\n\n".join(map(_wrapped, [size, *lines]))


def _memory(record: VerifyRecord) -> str:
    rows = [(way.name, stage, f"{mib:.0f}") for way in record.ways for stage, mib in way.memory_mib.items()]
    return _table(("", "stage", "memory that it added, MiB"), rows) if rows else ""


def _served(record: VerifyRecord) -> str:
    rows = [
        (
            one.topology,
            _number(one.easy_ms, "{:.2f}"),
            _number(one.hard_ms, "{:.2f}"),
            _number(one.easy_over_bare, "{:.2f}"),
            _number(one.hard_over_bare, "{:.2f}"),
        )
        for one in record.served
    ]
    return _table(("topology", "all easy, ms", "all hard, ms", "easy / bare", "hard / bare"), rows)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(_wrapped(f"- {line}", indent="  ") for line in lines)


def _wrapped(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
