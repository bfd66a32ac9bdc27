"""Writes the report of a pair: a page to read, a summary for a pull request, every value as JSON, and a picture."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from dynamicdet.files import whole_folder
from dyndet_bench.measuring.machine import summary
from dyndet_bench.report.html import Page, Section, Shown, data_uri, page_html
from dyndet_bench.report.markdown import table_markdown
from dyndet_bench.report.svg import Plot
from dyndet_bench.report.text import counted, inert, milliseconds, plain, sentence
from dyndet_builder.pairing.report.plots import draw_plots, write_picture
from dyndet_builder.pairing.report.record import BorderPicture, PairReport
from dyndet_builder.pairing.report.tables import cascade_table, detectors_table, kept_table, promises_table

_LEAST_COST = 0.0005
"""share of a detector's time; less is shown as 0.0 %, which nothing takes"""
JSON_NAME, HTML_NAME, MARKDOWN_NAME, PICTURE_NAME = "pair.json", "report.html", "summary.md", "frontier.png"


def write_report(report: PairReport, folder: Path) -> tuple[Path, ...]:
    """Write `report.html`, `summary.md`, `pair.json` and `frontier.png` into a folder, which appears whole.

    Raises InputError if the folder cannot be written, or if something else is there.
    """
    texts = {
        HTML_NAME: page_html(_page(report, draw_plots(report))),
        MARKDOWN_NAME: summary_markdown(report),
        JSON_NAME: json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n",
    }
    with whole_folder(folder, marker=JSON_NAME) as temporary:
        for name, text in texts.items():
            (temporary / name).write_bytes(text.encode())
        write_picture(report, temporary / PICTURE_NAME)
    return tuple(folder / name for name in (*texts, PICTURE_NAME))


def title_of(report: PairReport) -> str:
    """Such as `yolo11n, then yolo11x`."""
    return f"{report.small.name}, then {report.large.name}"


def answer_of(report: PairReport) -> str:
    """The verdict, the recommendation first."""
    return sentence(report.verdict.sentence)


def router_of(report: PairReport) -> list[str]:
    """What the router is and costs, in sentences."""
    router = report.router
    why = sentence(router.why)
    said = [f"{why[0].upper()}{why[1:]}"]
    if router.cost is not None:
        added_us = 1e3 * router.cost * report.small.latency.median_ms
        added = f" ({added_us:.0f} µs at its median)" if report.timed_here else ""
        share = f"{100 * router.cost:.1f} %{added}" if router.cost >= _LEAST_COST else "less than can be measured"
        said.append(f"It adds {share} to the time of {plain(report.small.name)}, measured here on the CPU.")
    return said


def scores_of(report: PairReport) -> str:
    """What the calibration of scores does."""
    scores = report.scores
    used = "are used" if scores.used else "are not used"
    return (
        f"Calibrated scores {used}: random mixes of both detectors have {scores.calibrated:.2f} {report.measure} with "
        f"them, and {scores.own:.2f} with the detectors' own scores."
    )


def resizing_of(report: PairReport) -> list[str]:
    """What each way to fit pictures for the small detector costs; nothing where both read the same pictures."""
    found = report.resizing
    if found is None:
        return []
    name, measure = plain(report.small.name), report.measure
    said = [
        f"{name} reads pictures of {plain(report.small.input)}; {plain(report.large.name)} reads "
        f"{plain(report.large.input)}.",
        f"Image files are fitted for each by its own rule: {name} alone has {found.own:.1f} {measure}, and the cascade "
        f"{found.own_mix:.1f} {measure} at 50 % hard.",
        f"Clients that send pixels send what {plain(report.large.name)} needs, and {name} resizes it in its graph: "
        f"{name} alone then has {found.public:.1f} {measure} ({found.public - found.own:+.1f}), and the cascade "
        f"{found.public_mix:.1f} {measure} ({found.public_mix - found.own_mix:+.1f}).",
    ]
    if found.public_ms is not None:
        said.append(
            f"With this resizing, {name} takes {milliseconds(found.public_ms)} instead of "
            f"{milliseconds(report.small.latency.mean_ms)}."
        )
    return said


def targets_of(report: PairReport) -> list[str]:
    """Why targets are not met."""
    return [f"{plain(one.target)} is not met: {sentence(one.reason)}" for one in report.promises if not one.met]


def _page(report: PairReport, plots: tuple[Plot, ...]) -> Page:
    sections = (
        Section(
            name="targets",
            title="What the pair would give",
            tables=(promises_table(report),) if report.promises else (),
            notes=tuple(targets_of(report)),
            missing="" if report.promises else "With --target-latency or --target-accuracy, a threshold is shown here.",
        ),
        Section(
            name="frontier",
            title="Accuracy for latency",
            plots=plots,
            tables=(detectors_table(report),),
            folded=(cascade_table(report),),
        ),
        Section(name="router", title="The router", notes=tuple(router_of(report)), tables=(kept_table(report),)),
        Section(name="scores", title="Calibrated scores", notes=(scores_of(report),)),
        Section(name="resizing", title="Two rules of fitting pictures", notes=tuple(resizing_of(report))),
        Section(name="border", title="Pictures at the border", gallery=_gallery(report)),
        Section(name="assumed", title="What was assumed", notes=report.assumptions),
    )
    return Page(
        title=title_of(report),
        answer=(answer_of(report), *(sentence(f"{one[0].upper()}{one[1:]}") for one in report.verdict.remarks)),
        alerts=tuple(sentence(f"{one[0].upper()}{one[1:]}") for one in report.warnings),
        setup=_setup(report),
        sections=sections,
        versions=report.circumstances.versions,
        beside=(JSON_NAME,),
    )


def _gallery(report: PairReport) -> tuple[tuple[str, tuple[Shown, ...]], ...]:
    if not report.border:
        return ()
    heading = f"Nearest to the threshold {report.border_threshold:.3f}"
    return ((heading, tuple(map(_shown, report.border))),)


def _shown(one: BorderPicture) -> Shown:
    sides = tuple((plain(name), data_uri(Image.fromarray(pixels))) for name, pixels in one.sides)
    return Shown(difficulty=f"{one.difficulty:.3g}", objects=plain(one.objects), sides=sides)


def _setup(report: PairReport) -> dict[str, str]:
    found = {
        "Pictures": f"{counted(report.pictures, 'picture')} from {report.source}",
        "Stream": "" if report.stream is None else counted(report.stream.pictures, "picture"),
        "Classes": f"{len(report.class_names)}: {', '.join(report.class_names)}",
    }
    for one in report.detectors:
        licence = f"; licence {one.licence}" if one.licence else ""
        found[one.name] = f"{one.file}, {one.input}, {milliseconds(one.latency.mean_ms)}{licence}"
    found |= {
        "Machine": summary(report.circumstances.machine) if report.timed_here else "latencies given with --latency",
        "Command": report.circumstances.command,
        "Date": report.circumstances.date,
    }
    return {plain(name): plain(text)[:2000] for name, text in found.items() if text}


def summary_markdown(report: PairReport) -> str:
    """Verdict, targets, detectors and kept gain."""
    notes = [*report.warnings, *report.verdict.remarks, *targets_of(report)]
    notes += [*router_of(report), scores_of(report), *resizing_of(report)]
    parts = [
        f"## {inert(title_of(report))}",
        f"**{inert(answer_of(report))}**",
        f"![{inert(report.measure)} over mean latency]({PICTURE_NAME})",
        table_markdown(promises_table(report)) if report.promises else "",
        table_markdown(detectors_table(report)),
        table_markdown(kept_table(report)),
        "\n".join(f"- {inert(f'{note[0].upper()}{note[1:]}')}" for note in notes),
        "What was assumed:\n\n" + "\n".join(f"- {inert(one)}" for one in report.assumptions),
        inert(
            f"{counted(report.pictures, 'picture')} from {report.source}, {summary(report.circumstances.machine)}, "
            f"{report.circumstances.date}."
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
