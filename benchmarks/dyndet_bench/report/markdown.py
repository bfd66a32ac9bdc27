"""The summary of a sweep for a pull request."""

from __future__ import annotations

from dataclasses import replace

from dyndet_bench.measuring.machine import summary
from dyndet_bench.report import findings
from dyndet_bench.report.facts import Facts
from dyndet_bench.report.plots import Plots
from dyndet_bench.report.tables import Row, Table, cells_table, points_table
from dyndet_bench.report.text import counted, inert
from dyndet_bench.report.words import WORDS, introduction, measures


def summary_markdown(facts: Facts, plots: Plots) -> str:
    """Answer, findings, operating points and the cells of the lowest load; the other cells are folded."""
    sweep = facts.sweep
    cells = cells_table(facts, short=True)
    first = tuple(row for row in cells.rows if facts.loads and row.texts[0] == str(facts.loads[0]))
    others = tuple(row for row in cells.rows if row not in first)
    parts = [
        f"## {inert(findings.title(facts))}",
        "\n".join(inert(line) + "  " for line in findings.answer(facts)).rstrip(),
    ]
    parts.append(inert(introduction(facts)))
    parts.append("\n".join(f"- {inert(line)}" for line in _findings(facts, plots)))
    parts += [table_markdown(points_table(facts))] if sweep.points else []
    parts += [table_markdown(replace(cells, title=str(facts.loads[0]), rows=first))] if first else []
    parts += [_folded(replace(cells, title="All other cells" if first else cells.title, rows=others))] if others else []
    words = "\n".join(f"- *{name}*: {inert(meaning)}" for name, meaning in {**WORDS, **measures(facts)}.items())
    parts.append(f"<details><summary>Words and numbers</summary>\n\n{words}\n\n</details>")
    parts.append(
        inert(
            f"Measured on {summary(sweep.circumstances.machine)}, with {counted(sweep.image_count, 'image')} from "
            f"{sweep.images}, {counted(sweep.repetitions, 'repetition')}, {sweep.circumstances.date}."
        )
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _findings(facts: Facts, plots: Plots) -> list[str]:
    tails = tuple(plot for plot in plots.loads if plot.title.startswith("p99"))
    drawn = [plot.finding for plot in (*plots.frontiers, *plots.routes, *plots.difficulties, *plots.splits, *tails)]
    trouble = (findings.failures(facts), findings.gaps(facts), findings.lateness(facts), findings.repeats(facts))
    return [line for line in (*trouble, findings.replayed(facts), *drawn, findings.papers(facts.sweep.paper)) if line]


def _folded(table: Table) -> str:
    return f"<details><summary>{inert(table.title)}</summary>\n\n{_rows(table)}\n\n</details>"


def table_markdown(table: Table) -> str:
    """A table with its title above it."""
    return f"**{inert(table.title)}**\n\n{_rows(table)}"


def _rows(table: Table) -> str:
    heads = [f"{column.name} ({column.unit})" if column.unit else column.name for column in table.columns]
    rules = ["---:" if column.is_figure else ":---" for column in table.columns]
    lines = [_line([inert(head) for head in heads]), _line(rules)]
    lines += [_line(_texts(row, len(heads))) for row in table.rows]
    return "\n".join(lines)


def _texts(row: Row, width: int) -> list[str]:
    texts = [inert(text) for text in (*row.texts, *([row.note] if row.note else []))]
    return texts + [""] * (width - len(texts))


def _line(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"
