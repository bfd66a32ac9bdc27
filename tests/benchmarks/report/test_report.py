"""The reports of a sweep: every value arrives, foreign words stay words, and gaps in the data are not a failure."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from dyndet_bench.measuring.journal import Replayed
from dyndet_bench.measuring.machine import Circumstances
from dyndet_bench.report.facts import Facts
from dyndet_bench.report.tables import cells_csv
from dyndet_bench.report.text import inert
from dyndet_bench.report.words import WORDS
from dyndet_bench.report.write import CSV_NAME, HTML_NAME, MARKDOWN_NAME, write_report
from dyndet_bench.sweep.record import (
    Accuracy,
    Cell,
    Latency,
    PaperCheck,
    Picture,
    Point,
    RouteLatencies,
    Split,
    Sweep,
)
from tests.support.hostility.words import PRINTABLE

HOSTILE = "<script>alert(1)</script> | a b $x^2$ `c` {{ 7 * 7 }} \"'><img src=x onerror=y>"
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""what a spreadsheet takes for the beginning of a formula"""
THRESHOLDS = (1.0, 0.25, 0.0)


def latency(mean_ms: float) -> Latency:
    tail = {f"p{percent}_ms": mean_ms * (0.5 + percent / 100) for percent in (50, 90, 95, 99)}
    return Latency(mean_ms=mean_ms, **tail)


def cell(threshold: float, concurrency: int | None, request_rate: float | None = None, batch: int = 1) -> Cell:
    hard_share = 1 - threshold
    mean_ms = 10.37 + 5.71 * hard_share + 3.13 * (concurrency or 2)
    return Cell(
        threshold=threshold,
        concurrency=concurrency,
        request_rate=request_rate,
        batch=batch,
        requests=231,
        throughput_per_s=1000 / mean_ms,
        latency=latency(mean_ms),
        mean_low_ms=mean_ms - 0.31,
        mean_high_ms=mean_ms + 0.27,
        throughput_low_per_s=990 / mean_ms,
        throughput_high_per_s=1010 / mean_ms,
        hard_share=hard_share,
        split=Split(queue_ms=1.1, compute_ms=mean_ms - 2.5, routing_ms=0.9, network_ms=0.5),
        open_loop=None if request_rate is None else latency(2 * mean_ms),
        open_loop_low_ms=None if request_rate is None else 2 * mean_ms - 0.43,
        open_loop_high_ms=None if request_rate is None else 2 * mean_ms + 0.39,
        repeats=4,
        raw=("raw/one.csv", "raw/two.csv"),
    )


def failed(threshold: float, concurrency: int, reason: str) -> Cell:
    return Cell(threshold=threshold, concurrency=concurrency, request_rate=None, batch=1, error=reason)


def sweep(cells: tuple[Cell, ...], *, word: str = "demo", **more: object) -> Sweep:
    """A sweep of these cells; `word` stands wherever a name comes from outside."""
    values: dict[str, object] = {
        "model": word,
        "url": word,
        "bundle_sha256": "0" * 64,
        "class_names": (word,),
        "input_size": 320,
        "images": word,
        "image_count": 57,
        "repetitions": 3,
        "cells": cells,
        "routes": {},
        "difficulties": (),
        "circumstances": Circumstances(
            machine={"cpu": word, "cores": "2", "kernel": word}, versions={word: word}, command=word, date="2026-01-01"
        ),
    }
    return Sweep.model_validate(values | more)


def full(folder: Path, word: str = "demo") -> Sweep:
    """A sweep with everything a record can hold; its gallery lies in `folder`."""
    for name in ("easy.png", "hard.png"):
        Image.new("RGB", (800, 600), (10, 120, 200)).save(folder / name)
    closed = [cell(threshold, concurrency) for concurrency in (1, 4) for threshold in THRESHOLDS]
    opened = [cell(threshold, None, rate) for rate in (20.0, 40.0) for threshold in THRESHOLDS]
    route = RouteLatencies(quantiles_ms=tuple(9 + quantile / 25 for quantile in range(101)), mean_ms=11.2, requests=319)
    return sweep(
        (*closed, *opened, cell(0.25, 4, batch=8), failed(0.5, 4, f"the server died {word}")),
        word=word,
        routes={"easy": route, "hard": route},
        difficulties=tuple(number / 56 for number in range(57)),
        accuracy=tuple(
            Accuracy(threshold=t, hard_share=1 - t, ap=40.3 - 4.8 * t, ap50=58.6 - 6 * t) for t in THRESHOLDS
        ),
        accuracy_data=word,
        points=(
            Point(
                name=word,
                threshold=0.25,
                target=word,
                reached="13.66 ms",
                error=-0.021,
                interval=0.013,
                hard_share=0.447,
                goodput=0.968,
                load=word,
            ),
        ),
        paper=(PaperCheck(model=word, lat1_ms=8.78, lat2_ms=12.05, fitted_rows=(10, 100), largest_error=0.0143),),
        gallery=(
            Picture(role="easiest", difficulty=0.0123, easy_file="easy.png", hard_file="hard.png", objects=word),
            Picture(
                role="borderline",
                difficulty=0.456,
                easy_file="easy.png",
                hard_file="hard.png",
                truth_file="easy.png",
                objects=word,
                verdict=word,
            ),
            Picture.model_construct(  # reading a sweep refuses such a name
                role="hardest", difficulty=0.987, easy_file="../no.png", hard_file="missing.png", objects=word
            ),
        ),
    )


class Page(HTMLParser):
    """What a browser would see of a page: elements with attributes, text, and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data


def written(record: Sweep, folder: Path) -> tuple[str, str, str]:
    paths = write_report(record, folder)
    assert [path.name for path in paths] == [HTML_NAME, MARKDOWN_NAME, CSV_NAME]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    return tuple(path.read_text() for path in paths)  # type: ignore[return-value]


@dataclass(frozen=True)
class Reports:
    """A full sweep, and its reports."""

    record: Sweep
    html: str
    markdown: str
    table: str


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reports]:
    """Those of a full sweep with a word, written once for each word: a dozen plots take seconds."""

    @cache
    def of(word: str) -> Reports:
        folder = tmp_path_factory.mktemp("reports")
        record = full(folder, word)
        return Reports(record, *written(record, folder))

    return of


def figures(value: object) -> list[float]:
    """All figures in a part of the record, as the tables print them: shares as percent."""
    if isinstance(value, dict):
        return [found for part in value.values() for found in figures(part)]
    return [value] if isinstance(value, int | float) else []


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?", text)]


def has(figure: float, printed: list[float]) -> bool:
    return any(shown == pytest.approx(scale * figure, rel=0.01, abs=0.006) for shown in printed for scale in (1, 100))


def test_every_figure_reaches_the_page(reports: Callable[[str], Reports]) -> None:
    made = reports("demo")
    record, markdown, page = made.record, made.markdown, Page(made.html)
    printed = numbers(" ".join(page.texts))
    for part in (*record.accuracy, *record.points, *record.paper, *record.gallery):
        assert all(has(figure, printed) for figure in figures(part.model_dump())), part
    rows = [" ".join(row).replace("–", " ") for row in page.rows]
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    for item in record.cells:
        where = "requests/s" if item.concurrency is None else f"concurrency {item.concurrency}"
        where = f"{item.request_rate:g} {where}" if item.request_rate else where
        where += ", batches of 8" if item.batch == 8 else ""
        where = rf"^(\| )?{where} (\| )?{item.threshold:.3f}".replace("1.000", "1").replace("0.000", "0")
        own = [numbers(row) for row in rows if re.search(where + r"(?![\w.])", row)]
        given = item.model_dump(exclude={"threshold", "concurrency", "request_rate", "batch"}, exclude_defaults=True)
        expected = figures(given)
        assert all(any(has(figure, row) for row in own) for figure in expected), item
        (line,) = [line for line in lines if re.search(where + r"(?![\w.])", line)]
        if item.waited:
            assert has(item.waited.mean_ms, numbers(line)) and has(item.waited.p99_ms, numbers(line))
        else:
            assert "the server died" in line and any("the server died" in row for row in rows)


optional = st.none() | st.floats(1e-3, 1e6)
loads = st.tuples(st.integers(1, 512), st.none()) | st.tuples(st.none(), st.floats(1e-3, 1e6))
printable_texts = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1)
cells_with_anything = st.builds(
    lambda load, **values: Cell(concurrency=load[0], request_rate=load[1], **values),
    load=loads,
    threshold=st.floats(0, 1),
    batch=st.integers(1, 64),
    error=st.none() | printable_texts,
    throughput_per_s=optional,
    latency=st.none() | st.builds(latency, st.floats(1e-3, 1e6)),
    hard_share=st.none() | st.floats(0, 1),
    open_loop=st.none() | st.builds(latency, st.floats(1e-3, 1e6)),
)


@given(st.lists(cells_with_anything, max_size=4))
def test_the_csv_gives_the_cells_back(cells: list[Cell]) -> None:
    facts = Facts(sweep(tuple(cells)))
    rows = list(csv.DictReader(io.StringIO(cells_csv(facts), newline="")))
    assert len(rows) == len(cells)
    for row, item in zip(rows, facts.cells, strict=True):
        values = item.model_dump(exclude={"latency", "split", "open_loop", "raw", "missing"})
        for prefix, nested in (("", item.latency), ("open_loop_", item.open_loop)):
            values |= {f"{prefix}{name}": getattr(nested, name, None) for name in Latency.model_fields}
        texts = {name: "" if value is None else str(value) for name, value in values.items()}
        texts["error"] = f"'{texts['error']}" if texts["error"].startswith(FORMULA) else texts["error"]
        assert texts.items() <= row.items()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(cells_with_anything, max_size=6), data=st.data())
def test_any_record_gives_a_report(tmp_path: Path, cells: list[Cell], data: st.DataObject) -> None:
    known = {item.threshold for item in cells if data.draw(st.booleans())}
    accuracy = tuple(Accuracy(threshold=t, hard_share=0.5, ap=30.0 + t, ap50=50.0) for t in known)
    text, markdown, _ = written(sweep(tuple(cells), accuracy=accuracy), tmp_path)
    assert "<h1>" in text and markdown.startswith("## ")


def test_foreign_words_stay_inert(reports: Callable[[str], Reports]) -> None:
    made = reports(HOSTILE)
    text, markdown, table = made.html, made.markdown, made.table
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "link", "base"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(
        attributes["src"].startswith("data:image/jpeg;base64,") for tag, attributes in page.elements if tag == "img"
    )
    assert "{{ 7 * 7 }}" in text
    assert not re.search(r"<(?!/?(?:details|summary)>)", markdown)
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    (row,) = [row for row in csv.DictReader(io.StringIO(table, newline="")) if row["error"]]
    assert row["error"].endswith(HOSTILE)


@pytest.mark.parametrize("word", [HOSTILE, PRINTABLE])
def test_markdown_of_hostile_names_has_no_element_of_theirs(word: str, reports: Callable[[str], Reports]) -> None:
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = markdown.parse(reports(word).markdown)
    blocks = {token.content.strip() for token in tokens if token.type == "html_block"}
    assert blocks == {
        "<details><summary>All other cells</summary>",
        "<details><summary>Words and numbers</summary>",
        "</details>",
    }
    inlines = [child.type for token in tokens for child in token.children or []]
    assert set(inlines) <= {"text", "text_special", "softbreak", "hardbreak"} | {
        f"{kind}_{end}" for kind in ("strong", "em") for end in ("open", "close")
    }
    assert not {token.type for token in tokens} & {"fence", "code_block", "hr", "blockquote_open", "ordered_list_open"}


def test_names_of_points_stand_in_the_legend_also_if_matplotlib_would_hide_them(tmp_path: Path) -> None:
    text, _, table = written(full(tmp_path, "_$x^2$"), tmp_path)
    assert any("_$x^2$: 0.250" in found for found in Page(text).texts)
    formula = full(tmp_path).model_copy(update={"cells": (failed(0.5, 1, "=1+1"), failed(0.5, 2, "a=1"))})
    rows = csv.DictReader(io.StringIO(cells_csv(Facts(formula)), newline=""))
    assert [row["error"] for row in rows] == ["'=1+1", "a=1"]
    assert table.count("'") == 0


def test_the_page_forbids_programs_and_foreign_addresses(reports: Callable[[str], Reports]) -> None:
    page = Page(reports(PRINTABLE).html)
    policies = [attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert any("$(touch canary)" in found for found in page.texts)


@given(st.text())
def test_markdown_cells_are_one_line_without_markup(text: str) -> None:
    cell_text = inert(text)
    assert len(f"|{cell_text}|".splitlines()) == 1
    assert not re.search(r"[<>]|(?<!\\)(?:\\\\)*[|`*]", cell_text)


def test_the_page_needs_nothing_beside_it(reports: Callable[[str], Reports]) -> None:
    text = reports("demo").html
    page = Page(text)
    references = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "href", "xlink:href", "srcset", "data", "action")
        if name in attributes
    ]
    assert references and all(reference.startswith(("#", "data:image/jpeg;")) for reference in references)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", text))
    assert "@import" not in text and not re.search("https?:", text)
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = [
        reference[1:] for reference in (*references, *re.findall(r"url\(([^)]*)\)", text)) if reference[0] == "#"
    ]
    assert set(targets) <= set(identifiers)


def test_plots_follow_the_scheme_and_can_be_read_aloud(reports: Callable[[str], Reports]) -> None:
    page = Page(reports("demo").html)
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(plots) > 8 and all(plot["role"] == "img" and len(plot["aria-label"]) > 40 for plot in plots)
    styles = [attributes.get("style", "") for _, attributes in page.elements]
    assert not [
        style for style in styles if re.search(r"#[0-9a-fA-F]{3,8}\b(?!\))", re.sub(r"url\([^)]*\)", "", style))
    ]
    assert all("alt" in attributes for tag, attributes in page.elements if tag == "img")
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))


def test_missing_parts_name_the_option_that_gives_them(tmp_path: Path) -> None:
    text, markdown, _ = written(sweep((cell(1.0, 1), cell(0.0, 1))), tmp_path)
    assert "--data FOLDER" in text and "--operating-points FILE" in text
    assert "Gallery" not in text and "over concurrency" not in text
    assert "13.5 ms" in markdown and "19.2 ms" in markdown


def test_nothing_but_failed_cells_is_still_a_report(tmp_path: Path) -> None:
    text, markdown, _ = written(sweep((failed(1.0, 1, "no answer"), failed(0.0, 1, "no answer"))), tmp_path)
    assert Page(text).rows[1] == ["concurrency 1", "1", "not measured: no answer"]
    assert "None of 2 cells could be measured" in markdown and markdown.count("not measured: no answer") == 2


def test_missing_runs_and_those_of_an_earlier_sweep_are_told_in_both_reports(tmp_path: Path) -> None:
    partly = cell(1.0, 1).model_copy(update={"missing": ("it was ended by SIGSEGV", "no answer")})
    replayed = Replayed(measurements=7, oldest="2026-11-26T01:00:00+00:00")
    swept = sweep((partly, cell(0.0, 1)), missing_routes="it hung", replayed=replayed)
    assert swept.missing == 3
    for text in written(swept, tmp_path)[:2]:
        assert "2 runs of 1 cell could not be measured: it was ended by SIGSEGV." in text
        assert "The two routes could not be measured on their own: it hung." in text
        assert "7 measurements are from an earlier run" in text


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_an_extra_the_error_says_what_to_install(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import dyndet_bench.report.write"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MissingExtraError" in result.stderr and "[bench]'` installs it" in result.stderr


def test_sentences_say_what_the_figures_say(reports: Callable[[str], Reports]) -> None:
    markdown = reports("demo").markdown
    for said in (
        "demo takes 13.5 ms on average if every image is easy (lat1)",
        "and 19.2 ms if every image is hard (lat2)",
    ):
        assert said in markdown
    assert "AP goes from 35.5 to 40.3, a gain of 4.8" in markdown
    assert (
        "With 75 % hard images (threshold 0.250), it takes 17.8 ms for 39.1 AP: 75 % of the gain for 75 %" in markdown
    )
    assert "p99 grows from 26.5 ms to 40.5 ms between concurrency 1 and 4 (threshold 0.250)" in markdown
    since = "(counted from when a request was sent, not from when it was due)."
    parts = [line for line in markdown.splitlines() if line.startswith("- At threshold") and " % of " in line]
    assert len(parts) >= 2 and all(line.endswith(since) == ("requests/s" in line) for line in parts)


def test_a_gain_is_the_difference_of_the_numbers_beside_it(tmp_path: Path) -> None:
    ends = tuple(Accuracy(threshold=t, hard_share=1 - t, ap=ap, ap50=60) for t, ap in ((1.0, 40.896), (0.0, 49.847)))
    _, markdown, _ = written(sweep((cell(1.0, 1), cell(0.0, 1)), accuracy=ends), tmp_path)
    assert "AP goes from 40.9 to 49.8, a gain of 8.9." in markdown


def test_repeated_runs_are_told_in_both_reports(tmp_path: Path) -> None:
    whole = cell(1.0, 1).model_copy(update={"repeats": 0})
    for cells, said in (((whole, cell(0.0, 1)), 1), ((whole, whole), 0)):
        for report in written(sweep(cells), tmp_path)[:2]:
            assert report.count("hung or lost requests 4 times; these measurements were repeated.") == said


def test_a_late_client_is_told_in_both_reports(tmp_path: Path) -> None:
    late = cell(0.0, None, 30.0).model_copy(update={"warning": "requests left 9.5 ms late"})
    text, markdown, _ = written(sweep((cell(1.0, None, 30.0), late)), tmp_path)
    for report in (text, markdown):
        assert "In 1 cell, the client of the open loop did not send on time" in report
        assert "9.5 ms late" in report.replace("\N{NO-BREAK SPACE}", " ")


def test_words_are_explained_a_cell_has_one_latency_and_a_labelled_image_has_a_verdict(tmp_path: Path) -> None:
    text, markdown, table = written(full(tmp_path, "detector 2 finds 3 more"), tmp_path)
    page = Page(text)
    words = " ".join(page.texts).replace("\N{NO-BREAK SPACE}", " ")
    assert len(WORDS) == 10
    for word, meaning in WORDS.items():
        assert markdown.count(f"- *{word}*: ") == 1 and words.count(meaning) == 1
    # At a request rate, it is the latency from when requests were due.
    row = next(row for row in page.rows if row[:2] == ["20 requests/s", "0.250"] and len(row) > 8)
    mean_ms = 10.37 + 5.71 * 0.75 + 3.13 * 2
    assert has(2 * mean_ms, numbers(" ".join(row))) and not has(mean_ms, numbers(" ".join(row)))
    loads = {row["load"] for row in csv.DictReader(io.StringIO(table, newline=""))}
    assert len(loads) == 5 and loads <= {row[0] for row in page.rows if row}
    shown = [attributes["alt"].partition(",")[0] for tag, attributes in page.elements if tag == "img"]
    assert shown == ["detector 1", "detector 2", "detector 1", "detector 2", "truth"]
    assert "detector 2 finds 3 more" in page.texts and "Green: the box shows an object" in words
