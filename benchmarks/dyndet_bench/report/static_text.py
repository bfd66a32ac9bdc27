"""What a frontier says in words and in a table; every difference has its interval."""

from __future__ import annotations

from dyndet_bench.frontier.record import Comparison, DynamicPoint, FrontierRecord, Interval, Latency, StaticPoint
from dyndet_bench.measuring.machine import summary
from dyndet_bench.report.markdown import table_markdown
from dyndet_bench.report.tables import Column, Row, Table
from dyndet_bench.report.text import MISSING, counted, inert, milliseconds, percent, plain, threshold_decimals


def sentences(record: FrontierRecord) -> tuple[str, ...]:
    """The answer to "why not one detector of the right size", in the order of importance; also if it is unwelcome."""
    best = record.best
    if best is None:
        return (_incomparable(record), *_at_equal_latency(record.on_average, ""))
    assert best.beside.faster is not None
    found = [
        f"At {best.ap.value:.1f} AP the dynamic detector is {_faster(best.beside.faster)} a static one: "
        f"{milliseconds(best.latency_ms.mean.value)} with {percent(best.hard_share)} of the images hard, the best of "
        f"{counted(len(_comparable(record)), 'threshold')}"
    ]
    if record.on_average.faster is not None:
        found.append(f"On average over these thresholds it is {_faster(record.on_average.faster)} one of equal AP")
    found += _at_equal_latency(record.on_average, "On average ")
    if _is_noise(best.beside.faster):
        found.append(f"{counted(record.images, 'image')} cannot tell the best difference from none")
    return tuple(found)


def frontier_table(record: FrontierRecord) -> Table:
    """All points, from the fastest to the slowest."""
    names = ("detector", "hard images", "mean", "p50", "p99", "AP", "random AP", "faster at equal AP")
    units = ("", "", "ms", "ms", "ms", "", "", "")
    columns = [
        Column(name=name, unit=unit, is_figure=place > 0)
        for place, (name, unit) in enumerate(zip(names, units, strict=True))
    ]
    columns.append(Column(name="AP at equal latency"))
    digits = threshold_decimals(point.threshold for point in record.dynamic)
    entries = [(point.latency_ms.mean.value, _dynamic_row(point, digits)) for point in record.dynamic]
    entries += [(one.latency_ms.mean.value, _static_row(one)) for one in record.static]
    rows = tuple(Row(texts=texts) for _, texts in sorted(entries))
    return Table(title="Dynamic and static detectors", columns=tuple(columns), rows=rows)


def frontier_note(record: FrontierRecord) -> str:
    """What was measured, and how."""
    seen = record.circumstances
    return (
        f"{plain(record.data)}: AP of {counted(record.images, 'image')}, latency of {record.timed_images} of them in "
        f"{counted(record.rounds, 'round')}, one request at a time, all detectors in turn on one server (dynamic: "
        f"topology {record.topology}). After a ±: half of the 95 % interval of {record.draws} draws of images and "
        f"rounds. {plain(summary(seen.machine))}; {plain(seen.date)}."
    )


def frontier_markdown(record: FrontierRecord) -> str:
    """The sentences and the table."""
    found = "  \n".join(f"{inert(line)}." for line in sentences(record))
    return "\n\n".join([found, table_markdown(frontier_table(record)), inert(frontier_note(record))]) + "\n"


def _dynamic_row(point: DynamicPoint, digits: int) -> tuple[str, ...]:
    beside = point.beside
    return (
        f"dynamic, threshold {point.threshold:.{digits}f}",
        percent(point.hard_share),
        *_measured(point.latency_ms, point.ap),
        f"{point.random_ap:.1f}",
        MISSING if beside.faster is None else _shares(beside.faster),
        MISSING if beside.more_ap is None else f"{beside.more_ap.value:+.1f} ± {_half(beside.more_ap):.1f}",
    )


def _static_row(one: StaticPoint) -> tuple[str, ...]:
    name = f"static: {plain(one.name)} ({one.gflops:.2f} GFLOPs)"
    return (name, MISSING, *_measured(one.latency_ms, one.ap), MISSING, MISSING, MISSING)


def _measured(latency: Latency, ap: Interval) -> tuple[str, ...]:
    return (_with_half(latency.mean, 2), f"{latency.p50:.2f}", f"{latency.p99:.2f}", _with_half(ap, 1))


def _comparable(record: FrontierRecord) -> list[DynamicPoint]:
    return [point for point in record.dynamic if point.beside.faster is not None]


def _incomparable(record: FrontierRecord) -> str:
    own, static = ([one.ap.value for one in points] for points in (record.dynamic, record.static))
    return (
        f"No threshold has an AP between those of the static detectors ({min(static):.1f} to {max(static):.1f}; the "
        f"dynamic detector has {min(own):.1f} to {max(own):.1f}), so there is no latency at equal AP"
    )


def _at_equal_latency(found: Comparison, start: str) -> list[str]:
    if found.more_ap is None:
        return []
    one = found.more_ap
    text = f"{start}it has {one.value:+.1f} AP at equal latency (95 % interval {one.low:+.1f} to {one.high:+.1f})"
    return [text[0].upper() + text[1:]]


def _faster(one: Interval) -> str:
    interval = f"(95 % interval {percent(one.low)} to {percent(one.high)})"
    if one.value >= 0:
        return f"{percent(one.value)} faster {interval} than"
    return f"{percent(-one.value)} slower (95 % interval {percent(-one.high)} to {percent(-one.low)}) than"


def _is_noise(one: Interval) -> bool:
    return one.low <= 0 <= one.high


def _shares(one: Interval) -> str:
    return f"{100 * one.value:+.0f} ± {100 * _half(one):.0f} %"


def _half(one: Interval) -> float:
    return (one.high - one.low) / 2


def _with_half(one: Interval, digits: int) -> str:
    return f"{one.value:.{digits}f} ± {_half(one):.{digits}f}"
