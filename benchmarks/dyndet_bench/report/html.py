"""The report of a sweep as one HTML file that needs no other file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from dynamicdet.errors import InputError
from dynamicdet.extras import missing_extra
from dynamicdet.images import read_image
from dyndet_bench.measuring.machine import summary
from dyndet_bench.report import findings
from dyndet_bench.report.facts import Facts
from dyndet_bench.report.plots import Plots
from dyndet_bench.report.static_part import static_part
from dyndet_bench.report.svg import Plot
from dyndet_bench.report.tables import (
    Table,
    accuracy_table,
    cells_table,
    details_table,
    points_table,
    routes_table,
    sent_table,
    split_table,
)
from dyndet_bench.report.text import counted, plain
from dyndet_bench.report.words import LEADS, WORDS, introduction, measures
from dyndet_bench.sweep.record import Picture, Role

try:
    import jinja2
    from PIL import Image
except ImportError as error:
    raise missing_extra("a report needs jinja2", "jinja2", among=("bench",)) from error

_TEMPLATES = Path(__file__).parent
_TEMPLATE = "report.html.jinja"
_LARGEST_SIDE = 640
"""Longest side of a gallery image, pixels: sharp at its display size, and small enough to mail the report."""
_ROLES = {
    "easiest": "Easiest images",
    "borderline": "Borderline images",
    "hardest": "Hardest images",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image of the gallery, ready to print; a data URI is empty if its file cannot be read."""

    verdict: str = ""
    """what detector 2 adds; empty without labels"""

    difficulty: str
    objects: str
    sides: tuple[tuple[str, str], ...]
    """detector, data URI"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; `missing` says which option fills it."""

    name: str
    title: str
    lead: str = ""
    """what is shown, and which images and requests it is about"""
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    """tables that are opened on demand: the values of a plot"""
    notes: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    """words with what they mean"""
    gallery: tuple[tuple[str, tuple[Shown, ...]], ...] = ()
    """headings with the pictures below them"""
    missing: str = ""

    @property
    def is_filled(self) -> bool:
        """Whether there is anything to show."""
        return any((self.plots, self.tables, self.folded, self.notes, self.words, self.gallery, self.missing))


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report, ready to print."""

    title: str
    answer: Sequence[str]
    """what was found, in a few sentences"""
    alerts: Sequence[str]
    setup: Mapping[str, str]
    """what was measured, and how"""
    sections: Sequence[Section]
    versions: Mapping[str, str]
    beside: Sequence[str]
    """files beside the page that contain the same values"""
    introduction: str = ""
    """for those who have never seen such a page"""


def page_html(page: Page) -> str:
    """A page that needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["tied"] = _tied
    del environment.filters["safe"]  # only `svg.finish`, where the text is escaped, says that something is HTML
    shown = [section for section in page.sections if section.is_filled]
    versions = {plain(name): plain(version) for name, version in page.versions.items()}
    return environment.get_template(_TEMPLATE).render(
        page=replace(page, title=plain(page.title), sections=shown, versions=versions)
    )


def report_html(facts: Facts, plots: Plots, folder: Path) -> str:
    """The page of a sweep; `folder` is where the gallery's files lie."""
    sweep = facts.sweep
    accuracy, *others = _plotted(facts, plots)
    page = Page(
        title=findings.title(facts),
        answer=findings.answer(facts),
        alerts=[text for text in (findings.failures(facts), findings.gaps(facts), findings.lateness(facts)) if text],
        setup=_setup(facts),
        sections=(
            _points(facts),
            accuracy,
            _static(facts, folder),
            *others,
            _cells(facts),
            _gallery(facts, folder),
            _paper(facts),
            _words(facts),
        ),
        versions=sweep.circumstances.versions,
        beside=("cells.csv", "sweep.json"),
        introduction=introduction(facts),
    )
    return page_html(page)


def _tied(text: str) -> str:
    """Text whose lines do not break between a value and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|ms|AP|images/s|requests/s)(?!\w))", "\N{NO-BREAK SPACE}", text)


def _setup(facts: Facts) -> dict[str, str]:
    """What was measured, on which machine and how."""
    sweep, circumstances = facts.sweep, facts.sweep.circumstances
    kernel = circumstances.machine.get("kernel")
    found = {
        "Machine": summary(circumstances.machine) + (f", kernel {kernel}" if kernel else ""),
        "Model": f"{sweep.model} at {sweep.url}, {sweep.input.replace(' x ', ' × ')}, "
        f"{len(sweep.class_names)} class{'' if len(sweep.class_names) == 1 else 'es'}",
        "Bundle": f"SHA-256 {sweep.bundle_sha256}" if sweep.bundle_sha256 else "",
        "Images": f"{counted(sweep.image_count, 'image')} from {sweep.images}",
        "Accuracy": f"measured on {sweep.accuracy_data}" if sweep.accuracy and sweep.accuracy_data else "",
        "Repetitions": f"{counted(sweep.repetitions, 'run')} of each cell (one threshold at one load), in turn",
        "Repeats": findings.repeats(facts),
        "Earlier runs": findings.replayed(facts),
        "Command": circumstances.command,
        "Date": circumstances.date,
    }
    return {name: plain(text) for name, text in found.items() if text}


def _points(facts: Facts) -> Section:
    has_points = bool(facts.sweep.points)
    return Section(
        name="points",
        title="Operating points",
        lead=LEADS["points"] if has_points else "",
        tables=(points_table(facts),) if has_points else (),
        missing="" if has_points else "With --operating-points FILE, calibrated operating points are shown here.",
    )


def _plotted(facts: Facts, plots: Plots) -> tuple[Section, ...]:
    has_accuracy = bool(facts.sweep.accuracy)
    return (
        Section(
            name="frontier",
            title="What accuracy costs",
            lead=LEADS["frontier"] if plots.frontiers else "",
            plots=plots.frontiers,
            folded=(accuracy_table(facts),) if has_accuracy else (),
            missing=""
            if has_accuracy
            else "With --data FOLDER, AP is measured on an annotated data set and shown here.",
        ),
        Section(
            name="routes",
            title="The two routes",
            lead=LEADS["routes"] if plots.routes else "",
            plots=plots.routes + plots.difficulties,
            folded=(routes_table(facts),) if plots.routes else (),
        ),
        Section(
            name="time",
            title="Where the time goes",
            lead=LEADS["time"] if plots.splits else "",
            plots=plots.splits,
            folded=(split_table(facts),) if plots.splits else (),
        ),
        Section(name="load", title="Latency under load", plots=plots.loads),
    )


def _static(facts: Facts, folder: Path) -> Section:
    """Static detectors on the same server, if they were measured."""
    title = "Beside static detectors"
    part = static_part(folder, bundle_sha256=facts.sweep.bundle_sha256)
    if part is None:
        return Section(name="static", title=title)
    notes = (*part.sentences[1:], part.note)
    return Section(name="static", title=title, plots=(part.plot,), folded=(part.table,), notes=notes)


def _cells(facts: Facts) -> Section:
    if not facts.cells:
        return Section(name="cells", title="All cells")
    sent = sent_table(facts)
    folded = (details_table(facts),) if facts.measured else ()
    return Section(
        name="cells",
        title="All cells",
        lead=LEADS["cells"],
        tables=(cells_table(facts),),
        folded=folded if sent is None else (*folded, sent),
    )


def _paper(facts: Facts) -> Section:
    notes = tuple(findings.paper(check) for check in facts.sweep.paper)
    return Section(
        name="paper",
        title="The calibration rule and the paper",
        lead=LEADS["paper"] if notes else "",
        notes=notes,
    )


def _words(facts: Facts) -> Section:
    return Section(name="words", title="Words and numbers", words={**WORDS, **measures(facts)})


def _gallery(facts: Facts, folder: Path) -> Section:
    roles: tuple[Role, ...] = get_args(Role)
    pictures = facts.sweep.gallery
    found = [(_ROLES[role], tuple(_shown(one, folder) for one in pictures if one.role == role)) for role in roles]
    return Section(
        name="gallery",
        title="Gallery",
        lead=_gallery_lead(pictures),
        gallery=tuple(pair for pair in found if pair[1]),
    )


def _gallery_lead(pictures: Sequence[Picture]) -> str:
    has_labels = any(picture.truth_file for picture in pictures)
    return LEADS["gallery"] + (LEADS["truth"] if has_labels else "") if pictures else ""


def _shown(picture: Picture, folder: Path) -> Shown:
    return Shown(
        difficulty=f"{picture.difficulty:.2g}",
        objects=plain(picture.objects),
        verdict=plain(picture.verdict or ""),
        sides=tuple(
            (side, _data_uri(folder, file))
            for side, file in (
                ("detector 1", picture.easy_file),
                ("detector 2", picture.hard_file),
                ("truth", picture.truth_file),
            )
            if file is not None
        ),
    )


def _data_uri(folder: Path, name: str) -> str:
    """An image of the sweep's folder as a small JPEG; empty if it is elsewhere or not an image."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            return ""
        image = Image.fromarray(read_image(path))
    except (InputError, OSError, ValueError):
        return ""
    return data_uri(image)


def data_uri(image: Image.Image) -> str:
    """An image as a small JPEG inside the page."""
    image = image.copy()
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
