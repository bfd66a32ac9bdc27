"""Writes the reports of a load record: the record, a page, a summary, and the figure of a burst."""

from __future__ import annotations

from pathlib import Path

from dynamicdet.files import whole_file
from dyndet_bench.load.record import FILE_NAME, LoadRecord
from dyndet_bench.measuring.machine import summary
from dyndet_bench.report.html import Page, Section, page_html
from dyndet_bench.report.load import text
from dyndet_bench.report.load.figure import burst_cells, write_burst
from dyndet_bench.report.load.plots import over_load, time_lines
from dyndet_bench.report.markdown import table_markdown
from dyndet_bench.report.svg import drawing
from dyndet_bench.report.tables import Table
from dyndet_bench.report.text import counted, inert, milliseconds, number, plain

HTML_NAME, MARKDOWN_NAME = "report.html", "summary.md"
BURST_NAMES = ("burst.png", "burst.svg")


def write_load_report(record: LoadRecord, folder: Path) -> tuple[Path, ...]:
    """Write `load.json`, `report.html`, `summary.md` and, with a burst, its figure into a folder.

    All texts exist before the first is written, and each file replaces its predecessor at once. Raises InputError if
    the folder is not writable. Without matplotlib or jinja2, importing this module raises a MissingExtraError.
    """
    texts = {
        FILE_NAME: record.model_dump_json(indent=1) + "\n",
        HTML_NAME: load_html(record),
        MARKDOWN_NAME: load_markdown(record),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write(folder / name, content) for name, content in texts.items()]
    if burst_cells(record):
        written += [write_burst(record, folder / name) for name in BURST_NAMES]
    return tuple(written)


def load_html(record: LoadRecord) -> str:
    """The record as one page that needs no other file."""
    with drawing():
        over, lines = over_load(record), time_lines(record)
    theory = text.theory_table(record)
    page = Page(
        title=text.title(record),
        answer=text.sentences(record),
        alerts=text.alerts(record),
        setup=_setup(record),
        sections=(
            Section(name="over", title="Over the load", plots=over),
            *(
                Section(name=f"time-{number}", title=f"Over time: {heading}", plots=plots)
                for number, (heading, plots) in enumerate(lines)
            ),
            Section(
                name="cells",
                title="All cells",
                lead="One row for each system at each load. " + text.memory_sentence(record.cells),
                tables=(text.cells_table(record),),
                folded=(text.details_table(record),),
            ),
            Section(
                name="theory",
                title="What queueing theory allows",
                lead="One server with the measured service times and Poisson arrivals, at the measured hard share. A "
                "dash: such a queue grows without end.",
                tables=() if theory is None else (theory,),
                missing="" if theory is not None else "A steady load is compared with queueing theory.",
            ),
            Section(
                name="hindsight",
                title="The best fixed threshold with hindsight",
                lead="The fixed threshold with the most hard images that keeps the promise at a load, found "
                "afterwards. Simulated: a queue with the level's own arrivals and the measured service times, every "
                "image once for AP. Measured: the best of the fixed thresholds in the table above.",
                tables=(text.hindsight_table(record),),
            ),
            Section(name="words", title="Words and numbers", words=text.WORDS),
        ),
        versions=record.circumstances.versions,
        beside=(FILE_NAME,),
        introduction="This page shows what a detector answers, how fast and how well, when more requests arrive than "
        "its slow route can take.",
    )
    return page_html(page)


def load_markdown(record: LoadRecord) -> str:
    """The sentences and the tables."""
    tables: list[Table | None] = [
        text.cells_table(record),
        text.theory_table(record),
        text.hindsight_table(record),
        text.details_table(record),
    ]
    lines = (*text.sentences(record), *text.alerts(record), text.memory_sentence(record.cells))
    parts = [f"## {inert(text.title(record))}", "\n".join(f"- {inert(line)}" for line in lines if line)]
    parts += [table_markdown(table) for table in tables if table is not None]
    setup = "; ".join(f"{name}: {value}" for name, value in _setup(record).items())
    return "\n\n".join([*parts, inert(setup)]) + "\n"


def _setup(record: LoadRecord) -> dict[str, str]:
    """What was measured, on which machine and how."""
    seen, capacity = record.circumstances, record.capacity
    after = "" if capacity.after_per_s is None else f"; {number(capacity.after_per_s)} after the last level"
    found = {
        "Machine": summary(seen.machine),
        "Model": f"{record.model}, operating point {record.operating_point}, threshold {record.base_threshold:.4g}",
        "Bundle": f"SHA-256 {record.bundle_sha256}" if record.bundle_sha256 else "",
        "Promise": f"{record.promise.statistic} at most {milliseconds(record.promise.ms)}: {record.promise.source}",
        "Capacity": f"{number(capacity.easy_per_s)} images/s all easy, {number(capacity.hard_per_s)} all hard, at "
        f"concurrency {capacity.concurrency}{after}",
        "Routes": f"{milliseconds(capacity.easy_mean_ms)} easy, {milliseconds(capacity.hard_mean_ms)} hard on average, "
        "one request at a time",
        "Images": f"{counted(record.images, 'image')}" + (f" of {record.data}, with labels" if record.data else ""),
        "Requests": f"arrivals of seed {record.seed}; at most {record.most_outstanding:,} outstanding; sent by "
        f"{counted(record.processes, 'process').replace('processs', 'processes')}",
        "Cancelled": f"{100 * record.cancel_share:g} % of the requests, over HTTP" if record.cancel_share else "",
        "Earlier runs": "" if record.replayed is None else str(record.replayed),
        "Command": seen.command,
        "Date": seen.date,
    }
    return {name: plain(value) for name, value in found.items() if value}


def _write(path: Path, content: str) -> Path:
    with whole_file(path, durable=False) as temporary:
        temporary.write_bytes(content.encode())
    return path
