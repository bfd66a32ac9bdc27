"""The report of a detector under load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dyndet_bench.load.record import read_load_record
from dyndet_bench.report.load.text import alerts
from dyndet_bench.report.load.write import load_html, write_load_report
from tests.support.loads import load_record

HOSTILE = "<script>alert(1)</script>"


def test_the_files_say_what_the_record_says_and_foreign_words_stay_inert(tmp_path: Path) -> None:
    """Sentences and tables have the values of the cells, the record can be read back, the figure has both systems."""
    record = load_record(data=HOSTILE).model_copy(update={"operating_point": HOSTILE, "model": HOSTILE})
    written = write_load_report(record, tmp_path / "out")
    assert [path.name for path in written] == ["load.json", "report.html", "summary.md", "burst.png", "burst.svg"]
    page, summary = (path.read_text().replace("\N{NO-BREAK SPACE}", " ") for path in written[1:3])
    for text in (page, summary.replace("\\", "")):
        assert "p95 at most 100 ms" in text and "42.2" in text and "41.5" in text
        assert "10 % are refused" in text and "with plain queueing, 0 % of the requests are in time" in text
        burst = r"burst, 3 × capacity: with a threshold that follows the load.* normal again after 1.0 s"
        assert re.search(burst, text, re.IGNORECASE)
    assert page.count("<svg") == 4 + 3 * 4
    assert "<script" not in page + summary and not re.search(r"(src|href)=.https?:", page)
    figure = written[4].read_text()
    assert "plain queueing" in figure and "threshold follows the load" in figure and "promise" in figure


def test_a_record_can_be_read_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path, record = tmp_path / "load.json", load_record()
    path.write_text(record.model_dump_json())
    assert read_load_record(path) == record
    path.write_text(record.model_dump_json().replace('"within":0.', '"within":7.', 1))
    with pytest.raises(InputError, match="within"):
        read_load_record(path)


def test_a_report_of_one_level_without_labels_has_no_such_parts() -> None:
    record = load_record(data=None, burst=False)
    page = load_html(record.model_copy(update={"cells": record.cells[:2]}))
    assert page.count("<svg") == 4 and ">AP<" in page


def test_what_makes_a_result_doubtful_is_told() -> None:
    record = load_record()
    assert alerts(record) == ()
    first = record.cells[0].model_copy(update={"valid": False, "failed": 3, "errors": ("broken",)})
    capacity = record.capacity.model_copy(update={"after_per_s": 50.0})
    changed = {"cells": (first, *record.cells[1:]), "capacity": capacity, "ending": "the server was killed"}
    told = "\n".join(alerts(record.model_copy(update=changed)))
    for said in ("In 1 cell, marked with *", "3 requests failed: broken", "50.0 after the last", "The server was"):
        assert said in told
