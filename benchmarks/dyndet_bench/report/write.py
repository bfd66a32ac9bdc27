"""Writes the reports of a sweep: a page to read, a summary for a pull request, and a table of the cells."""

from __future__ import annotations

from pathlib import Path

from dynamicdet.files import whole_file
from dyndet_bench.report.facts import Facts
from dyndet_bench.report.html import report_html
from dyndet_bench.report.markdown import summary_markdown
from dyndet_bench.report.plots import draw_plots
from dyndet_bench.report.tables import cells_csv
from dyndet_bench.sweep.record import Sweep

HTML_NAME, MARKDOWN_NAME, CSV_NAME = "report.html", "summary.md", "cells.csv"


def write_report(sweep: Sweep, folder: Path) -> tuple[Path, ...]:
    """Write `report.html`, `summary.md` and `cells.csv` into the folder of the sweep and its gallery's pictures.

    All three are created before the first is written, and each replaces its predecessor at once. Raises InputError if
    the folder is not writable. Without matplotlib or jinja2, importing this module raises a MissingExtraError.
    """
    facts = Facts(sweep)
    plots = draw_plots(facts)
    texts = {
        HTML_NAME: report_html(facts, plots, folder),
        MARKDOWN_NAME: summary_markdown(facts, plots),
        CSV_NAME: cells_csv(facts),
    }
    return tuple(_write(folder / name, text) for name, text in texts.items())


def _write(path: Path, text: str) -> Path:
    with whole_file(path, durable=False) as temporary:
        temporary.write_bytes(text.encode())
    return path
