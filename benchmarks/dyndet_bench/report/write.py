"""Writes the reports of a sweep: a page to read, a summary for a pull request, and the cells as a table."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from dynamicdet.errors import InputError
from dyndet_bench.report.facts import Facts
from dyndet_bench.report.html import report_html
from dyndet_bench.report.markdown import summary_markdown
from dyndet_bench.report.plots import draw_plots
from dyndet_bench.report.tables import cells_csv
from dyndet_bench.sweep.record import Sweep

HTML_NAME, MARKDOWN_NAME, CSV_NAME = "report.html", "summary.md", "cells.csv"


def write_report(sweep: Sweep, folder: Path) -> tuple[Path, ...]:
    """Write `report.html`, `summary.md` and `cells.csv` into the folder of the sweep and its gallery's pictures.

    All three are made before the first is written, and each replaces its predecessor at once. Raises InputError where
    the folder cannot be written to. Without matplotlib or jinja2, importing this module raises a MissingExtraError.
    """
    facts = Facts(sweep)
    plots = draw_plots(facts)
    texts = {
        HTML_NAME: report_html(facts, plots, folder),
        MARKDOWN_NAME: summary_markdown(facts, plots),
        CSV_NAME: cells_csv(facts),
    }
    return tuple(_write_whole(folder / name, text) for name, text in texts.items())


def _write_whole(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        temporary.write_bytes(text.encode())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
