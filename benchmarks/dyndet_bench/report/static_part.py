"""The part of a report on static detectors: what `dyndet bench frontier` measured, if it lies beside the sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dyndet_bench.frontier.record import FILE_NAME, read_frontier_record
from dyndet_bench.report.static_plot import static_plot
from dyndet_bench.report.static_text import frontier_note, frontier_table, sentences
from dyndet_bench.report.svg import Plot, drawing
from dyndet_bench.report.tables import Table
from dyndet_bench.report.text import sentence


@dataclass(frozen=True, kw_only=True)
class StaticPart:
    """A plot, a table and what they say."""

    plot: Plot
    table: Table
    sentences: tuple[str, ...]
    """the first one belongs to the plot"""
    note: str


def static_part(folder: Path, *, bundle_sha256: str | None) -> StaticPart | None:
    """What `frontier.json` in the folder of a sweep says; None without it, or if it is of another bundle.

    Raises InputError if the file is damaged.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return None
    record = read_frontier_record(file)
    if bundle_sha256 is not None and record.bundle_sha256 != bundle_sha256:
        return None
    found = tuple(sentence(line) for line in sentences(record))
    with drawing():
        plot = static_plot(record, found[0])
    return StaticPart(plot=plot, table=frontier_table(record), sentences=found, note=frontier_note(record))
