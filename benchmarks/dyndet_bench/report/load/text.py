"""What a load record says in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence

from dyndet_bench.load.record import Cell, LoadRecord
from dyndet_bench.report.tables import Column, Row, Table
from dyndet_bench.report.text import MISSING, column_texts, counted, milliseconds, number, percent, plain

WORDS = {
    "capacity": "The images a second that the server answers if every image is easy, measured in a closed loop before "
    "the first level. Loads are multiples of it.",
    "promise": "A percentile of the latency. A request is in time if its answer took no longer.",
    "latency": "From when a request was due until its answer was there. It includes a late start in the client.",
    "following": "The threshold of the operating point follows the load: fewer images take the hard route when more "
    "requests arrive.",
    "plain queueing": "The operating point's threshold for every request. What cannot be answered at once waits.",
    "static": "Another fixed threshold for every request. At 1, every image is easy.",
    "in time": "The share of all requests that were answered within the promise. Refused requests and requests without "
    "an answer are not in time.",
    "of accepted": "The same without the refused requests.",
    "goodput": "Answers in time, a second of arrivals, as a multiple of the capacity.",
    "p50 to p99": "Of all accepted requests. A dash: so many got no answer within the limit that the percentile is "
    "not known.",
    "degraded": "Answers of detector 1 for images that were hard, but had no time for detector 2.",
    "refused": "Requests that the server declined at once, because it could not answer them in time.",
    "not sent": "Requests that were due while the bound of outstanding requests was reached. They are not in time.",
    "AP": "COCO average precision, in percent, of the answers given. Each answer counts as an image of its own. "
    "“AP, all” counts every request without an answer as an empty answer.",
    "theory": "One server with the measured service times and Poisson arrivals (M/G/1), at the hard share that was "
    "measured: the mean by Pollaczek and Khinchine's formula, the percentile by a simulation of the queue. The "
    "service times of one request at a time are scaled to the throughput at full load.",
    "best fixed threshold": "The fixed threshold with the most hard images that keeps the promise, found afterwards: "
    "by simulating the queue with the level's own arrivals, and among the measured fixed thresholds.",
}


def title(record: LoadRecord) -> str:
    """The title of a report."""
    return f"{plain(record.model)} under load"


def run_title(profile: str, level: float | None) -> str:
    """A level for people."""
    return plain(profile) if level is None else f"{plain(profile)}, {level:g} × capacity"


def sentences(record: LoadRecord) -> tuple[str, ...]:
    """What was found: what was promised, what happened at the highest steady load, and after a burst."""
    promise, capacity = record.promise, record.capacity
    found = [
        f"The promise is {promise.statistic} at most {milliseconds(promise.ms)} ({plain(promise.source)}). The server "
        f"answers {number(capacity.easy_per_s)} images a second if every image is easy, and "
        f"{number(capacity.hard_per_s)} if every image is hard."
    ]
    found += [line for profile, level in _shown(record) if (line := _compared(record, profile, level))]
    return tuple(found)


def alerts(record: LoadRecord) -> tuple[str, ...]:
    """What makes the result doubtful."""
    found = []
    late = [cell for cell in record.cells if not cell.valid]
    if late:
        worst = max(late, key=lambda cell: cell.lag_p95_ms)
        found.append(
            f"In {counted(len(late), 'cell')}, marked with *, the generator sent too late to judge the server (p95 of "
            f"the delay up to {milliseconds(worst.lag_p95_ms)}). Use a quieter machine, or more --generators."
        )
    after = record.capacity.after_per_s
    if after is not None and abs(after / record.capacity.easy_per_s - 1) > 0.1:
        found.append(
            f"The capacity was {number(record.capacity.easy_per_s)} images a second before the first level and "
            f"{number(after)} after the last one, so the loads were not what they are called."
        )
    if record.ending is not None:
        found.append(crash_sentence(record))
    failed = sum(cell.failed for cell in record.cells)
    if failed:
        reasons = dict.fromkeys(plain(one) for cell in record.cells for one in cell.errors)
        first = next(iter(reasons), "no reason was given")
        found.append(f"{counted(failed, 'request')} failed: {first}")
    found += [f"Not measured: {plain(str(one))}" for one in record.missing[:5]]
    return tuple(found)


def _shown(record: LoadRecord) -> list[tuple[str, float | None]]:
    """The highest steady load, and every other profile."""
    steady = [run for run in record.runs if run[0] == "steady"]
    return steady[-1:] + [run for run in record.runs if run[0] != "steady"]


def _compared(record: LoadRecord, profile: str, level: float | None) -> str:
    """One level: following beside plain queueing."""
    cells = {cell.kind: cell for cell in reversed(record.of(profile, level))}
    parts = [_result(cells[kind], name) for kind, name in _NAMES.items() if kind in cells]
    if not parts:
        return ""
    return f"{run_title(profile, level).capitalize()}: {'; '.join(parts)}."


_NAMES = {"following": "with a threshold that follows the load", "plain": "with plain queueing"}


def _result(cell: Cell, name: str) -> str:
    text = f"{name}, {percent(cell.within)} of the requests are in time"
    if cell.p99_ms is not None:
        text += f" (p99 {milliseconds(cell.p99_ms)})"
    if cell.refused:
        text += f", {percent(cell.refused / max(1, cell.offered))} are refused"
    if cell.ap is not None:
        text += f", AP {cell.ap:.1f}"
    if cell.profile in ("burst", "step"):
        known = [one for one in (cell.latency_normal_s, cell.threshold_normal_s) if one is not None]
        back = cell.latency_normal_s is not None
        text += f", normal again after {max(known):.1f} s" if back else ", not normal again within the run"
    return text


def cells_table(record: LoadRecord) -> Table:
    """What every system did at every level."""
    heads = (
        ("load", ""), ("system", ""), ("in time", ""), ("of accepted", ""), ("goodput", "× capacity"), ("p50", "ms"),
        ("p95", "ms"), ("p99", "ms"), ("hard", ""), ("degraded", ""), ("refused", ""), ("AP", ""), ("AP, all", ""),
    )  # fmt: skip
    columns = tuple(Column(name=name, unit=unit, is_figure=place > 1) for place, (name, unit) in enumerate(heads))
    p50, p95, p99 = (
        column_texts([getattr(cell, f"{one}_ms") for cell in record.cells], 0) for one in ("p50", "p95", "p99")
    )
    rows = [
        Row(
            texts=(
                run_title(cell.profile, cell.level) + ("" if cell.valid else " *"),
                plain(cell.system),
                percent(cell.within),
                _share(cell.within_accepted),
                f"{cell.goodput_per_s / record.capacity.easy_per_s:.2f}",
                *times,
                _share(cell.hard_share),
                _share(cell.degraded_share),
                percent(cell.refused / max(1, cell.offered)),
                _ap(cell.ap),
                _ap(cell.ap_all),
            )
        )
        for cell, *times in zip(record.cells, p50, p95, p99, strict=True)
    ]
    return Table(title="All cells", columns=columns, rows=tuple(rows))


def details_table(record: LoadRecord) -> Table:
    """Counts, the generator, the threshold's movement, recovery and memory."""
    heads = (
        ("load", ""), ("system", ""), ("requests", ""), ("answered", ""), ("refused", ""), ("failed", ""),
        ("not sent", ""), ("no answer", ""), ("refusals p95", "ms"), ("sent late p95", "ms"), ("turns in 10 s", ""),
        ("latency normal after", "s"), ("threshold normal after", "s"), ("memory before", "MiB"),
        ("memory after", "MiB"),
    )  # fmt: skip
    columns = tuple(Column(name=name, unit=unit, is_figure=place > 1) for place, (name, unit) in enumerate(heads))
    rows = [
        Row(
            texts=(
                run_title(cell.profile, cell.level),
                plain(cell.system),
                *(f"{one:,}" for one in (cell.offered, cell.answered, cell.refused, cell.failed)),
                f"{cell.unsent:,}",
                f"{cell.unanswered:,}",
                _number(cell.refusal_p95_ms),
                _number(cell.lag_p95_ms),
                str(cell.turns_in_10_s),
                _number(cell.latency_normal_s),
                _number(cell.threshold_normal_s),
                _number(cell.memory_before_mb, 0),
                _number(cell.memory_after_mb, 0),
            )
        )
        for cell in record.cells
    ]
    return Table(title="Counts, recovery and memory", columns=columns, rows=tuple(rows))


def theory_table(record: LoadRecord) -> Table | None:
    """Measured latencies beside what a queue allows; None without a steady load."""
    statistic = plain(record.promise.statistic)
    names = ("load", "system", "utilisation", "mean, measured", "mean, theory", f"{statistic}, measured")
    columns = tuple(
        Column(name=name, unit="ms" if place > 2 else "", is_figure=place > 1)
        for place, name in enumerate((*names, f"{statistic}, theory"))
    )
    cells = [cell for cell in record.cells if cell.profile == "steady"]
    rows = tuple(
        Row(
            texts=(
                run_title(cell.profile, cell.level),
                plain(cell.system),
                f"{cell.allowed.utilisation:.2f}",
                _number(cell.mean_ms),
                _number(cell.allowed.mean_ms),
                _number(getattr(cell, f"{record.promise.statistic}_ms", None)),
                _number(cell.allowed.quantile_ms),
            )
        )
        for cell in cells
    )
    return (
        Table(title="Measured latency, and what queueing theory allows", columns=columns, rows=rows) if rows else None
    )


def hindsight_table(record: LoadRecord) -> Table:
    """The best fixed threshold of each level, beside the one that follows the load."""
    heads = (
        "load", "AP, following", "simulated threshold", "its hard share", "its AP", "best measured", "its AP",
    )  # fmt: skip
    columns = tuple(Column(name=name, is_figure=place not in (0, 5)) for place, name in enumerate(heads))
    rows = []
    for one in record.hindsight:
        following = [cell for cell in record.of(one.profile, one.level) if cell.kind == "following"]
        rows.append(
            Row(
                texts=(
                    run_title(one.profile, one.level),
                    _ap(following[0].ap if following else None),
                    MISSING if one.threshold is None else f"{one.threshold:.3f}",
                    _share(one.hard_share),
                    _ap(one.ap),
                    plain(one.measured) if one.measured else "none keeps the promise",
                    _ap(one.measured_ap),
                )
            )
        )
    return Table(title="The best fixed threshold with hindsight", columns=columns, rows=tuple(rows))


def crash_sentence(record: LoadRecord) -> str:
    """Whether the server survived."""
    cancelled = sum(cell.cancelled for cell in record.cells)
    given_up = f" {counted(cancelled, 'request')} were given up." if cancelled else ""
    if record.ending is None:
        return f"The server did not crash.{given_up}"
    return f"{plain(record.ending).capitalize()}.{given_up}"


def memory_sentence(cells: Sequence[Cell]) -> str:
    """How much memory the server held at the beginning and at the end of some cells."""
    known = [cell for cell in cells if cell.memory_before_mb is not None and cell.memory_after_mb is not None]
    if not known:
        return ""
    first, last = known[0].memory_before_mb, known[-1].memory_after_mb
    most = max(cell.memory_most_mb or 0.0 for cell in known)
    assert first is not None and last is not None
    return f"The server held {first:,.0f} MiB before, {last:,.0f} MiB after, and {most:,.0f} MiB at most."


def _share(value: float | None) -> str:
    return MISSING if value is None else percent(value)


def _ap(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _number(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"
