"""What a sweep shows, in sentences computed from its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dynamicdet.thresholds import is_hard
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.perf_run import repeats_text
from dyndet_bench.report.facts import Facts, Measured, load_range
from dyndet_bench.report.text import counted, milliseconds, number, percent, plain, sentence, shortened
from dyndet_bench.sweep.record import PaperCheck, Split

PARTS = {"queue_ms": "queue", "compute_ms": "compute", "routing_ms": "routing", "network_ms": "network"}
"""Fields of a Split and what the reports call them, in the order in which a request meets them."""


def title(facts: Facts) -> str:
    """The title of a report."""
    return f"Latency and accuracy of {plain(facts.sweep.model)}"


def answer(facts: Facts) -> tuple[str, ...]:
    """The answer in two lines: cost and gain of the two ends, and of the point half way between them."""
    if not facts.measured:
        failed = facts.failed
        reason = sentence(failed[0].error) if failed and failed[0].error else "No reason was recorded."
        return (f"None of {counted(len(failed), 'cell')} could be measured.", f"The first error is: {reason}")
    load = next((load for load in facts.loads if facts.ends(load)), facts.loads[0])
    return tuple(line for line in (_range(facts, load), _half_way(facts, load)) if line)


def _range(facts: Facts, load: Load) -> str:
    ends = facts.ends(load)
    if ends is None:
        fastest = min(facts.measured, key=lambda found: found.latency.mean_ms)
        return f"{_at_threshold(facts, fastest)}, {plain(facts.sweep.model)} takes {_cost(fastest)}, its fastest cell."
    easy, hard = ends
    line = f"At {load}, {plain(facts.sweep.model)} takes {milliseconds(easy.latency.mean_ms)} on average if every "
    line += f"image is easy (lat1) and {milliseconds(hard.latency.mean_ms)} if every image is hard (lat2)"
    if easy.accuracy and hard.accuracy:
        low, high = round(easy.accuracy.ap, 1), round(hard.accuracy.ap, 1)  # a gain that readers can compute, too
        line += f"; AP goes from {low:.1f} to {high:.1f}, a gain of {high - low:.1f}"
    return f"{line}."


def _half_way(facts: Facts, load: Load) -> str:
    middle = facts.middle(load)
    if middle is None or middle.cell.hard_share is None:
        return ""
    line = f"With {percent(middle.cell.hard_share)} hard images (threshold {facts.threshold_text(middle.threshold)}), "
    line += f"it takes {_cost(middle)}{_worth(facts, middle)}"
    return f"{line}."


def _cost(found: Measured) -> str:
    ap = f" for {found.accuracy.ap:.1f} AP" if found.accuracy else ""
    return f"{milliseconds(found.latency.mean_ms)}{ap}"


def _worth(facts: Facts, found: Measured) -> str:
    """The share of the gain and the share of the added latency, if both are positive."""
    ends = facts.ends(found.load)
    if ends is None:
        return ""
    easy, hard = ends
    price = hard.latency.mean_ms - easy.latency.mean_ms
    if price <= 0:
        return ""
    paid = f"{percent((found.latency.mean_ms - easy.latency.mean_ms) / price)} of the added latency"
    if not (easy.accuracy and hard.accuracy and found.accuracy and hard.accuracy.ap > easy.accuracy.ap):
        return f": {paid}"
    gain = (found.accuracy.ap - easy.accuracy.ap) / (hard.accuracy.ap - easy.accuracy.ap)
    return f": {percent(gain)} of the gain for {paid}"


def frontier_latency(facts: Facts, loads: Sequence[Load]) -> str:
    """The cost of AP in latency, at the lowest and the highest load of the plot."""
    first, last = facts.with_accuracy(loads[0]), facts.with_accuracy(loads[-1])
    line = f"At {loads[0]}, AP goes from {_ap_at_ms(first[0])} to {_ap_at_ms(first[-1])}"
    if len(loads) > 1:
        line += f"; at {loads[-1]}, from {_ap_at_ms(last[0])} to {_ap_at_ms(last[-1])}"
    return f"{line}."


def frontier_throughput(facts: Facts, loads: Sequence[Load]) -> str:
    """The cost of AP in throughput, at the load with the highest throughput."""
    cells = max((facts.with_accuracy(load) for load in loads), key=lambda found: max(_throughput(one) for one in found))
    easy, hard = cells[0], cells[-1]
    return (
        f"Throughput is highest at {easy.load}: {number(_throughput(easy))} images/s at {_ap(easy)} AP and "
        f"{number(_throughput(hard))} images/s at {_ap(hard)} AP."
    )


def _throughput(found: Measured) -> float:
    return found.cell.throughput_per_s or 0.0


def omitted(count: int, shown: int, one: str) -> str:
    """A sentence if a plot shows fewer series than there are."""
    return "" if count == shown else f"The plot shows {shown} of {counted(count, one)}."


def routes(facts: Facts) -> str:
    """Median and tail of each route. A cell has the median of its runs instead, so its p99 differs."""
    found = facts.sweep.routes
    parts = []
    for route, latencies in found.items():
        middle, tail = np.percentile(latencies.quantiles_ms, [50, 99])
        parts.append(f"{route} requests take {milliseconds(middle)} in the median and {milliseconds(tail)} at p99")
    return f"Each route on its own, one request at a time, all runs together: {'; '.join(parts)}."


def split(facts: Facts, cells: Sequence[Measured]) -> str:
    """Where the fastest and the slowest of these cells spend most of their time.

    perf_analyzer measures the parts. At a request rate it counts from when it sent a request, in runs of its own, so
    the sum differs from the latency of the cell.
    """
    fastest = min(cells, key=lambda found: found.latency.mean_ms)
    slowest = max(cells, key=lambda found: found.latency.mean_ms)
    line = f"{_at_threshold(facts, fastest)}, {_largest_part(fastest)}"
    if slowest is not fastest:
        slow = _at_threshold(facts, slowest)
        line += f"; {slow[:1].lower()}{slow[1:]}, {_largest_part(slowest)}"
    since = " (counted from when a request was sent, not from when it was due)" if cells[0].load.open else ""
    return f"{line}{since}."


def _largest_part(found: Measured) -> str:
    parts = split_parts(found.cell.split)
    total = sum(parts.values())
    name = max(parts, key=lambda part: parts[part])
    return f"{name} is {percent(parts[name] / total if total else 0.0)} of {milliseconds(total)}"


def split_parts(found: Split | None) -> dict[str, float]:
    """Milliseconds by the name of the part. Small negative differences of two clocks count as 0."""
    return {name: max(0.0, getattr(found, field)) for field, name in PARTS.items()} if found else {}


def difficulties(facts: Facts, lines: Sequence[tuple[str, float]]) -> str:
    """The distribution of the difficulties, and the effect of the first threshold."""
    values = np.array(facts.sweep.difficulties, np.float64)
    known = values[np.isfinite(values)]
    median = number(float(np.median(known)))
    line = f"Half of the {counted(len(values), 'image')} of this sweep have a difficulty below {median}"
    if len(known) < len(values):
        line += f"; {len(values) - len(known)} have no difficulty and count as hard"
    if lines:
        name, threshold = lines[0] if lines[0][0] else lines[len(lines) // 2]
        share = float(np.mean(is_hard(values, threshold)))
        line += f". Threshold {facts.threshold_text(threshold)}{f' ({shortened(name, 40)})' if name else ''} sends "
        line += f"{percent(share)} of these images to detector 2"
    return f"{line}."


def over_load(facts: Facts, cells: Sequence[Measured], field: str) -> str:
    """How one statistic of the latency grows with the load."""
    name = field.removesuffix("_ms")
    middle = facts.middle(cells[0].load)
    series = [found for found in cells if middle and found.threshold == middle.threshold]
    if len(series) < 2:
        threshold, _ = Counter(found.threshold for found in cells).most_common(1)[0]
        series = [found for found in cells if found.threshold == threshold]
    first, last = series[0], series[-1]
    before, after = getattr(first.latency, field), getattr(last.latency, field)
    if first.load == last.load:
        return f"{_at_threshold(facts, first)}, {name} is {milliseconds(before)}."
    old, new = milliseconds(before), milliseconds(after)
    change = f"stays at {new}" if old == new else f"{'grows' if after > before else 'falls'} from {old} to {new}"
    line = f"{name} {change} between "
    line += f"{load_range(first.load, last.load, 'and')} (threshold {facts.threshold_text(first.threshold)})"
    return f"{line}."


def paper(check: PaperCheck) -> str:
    """How well the latency model of calibration fits the paper's own table."""
    rows = " and ".join(f"{row} %" for row in check.fitted_rows)
    return (
        f"{plain(check.model)}: lat1 = {milliseconds(check.lat1_ms)} and lat2 = {milliseconds(check.lat2_ms)}, "
        f"from the rows at {rows} hard, predict the FPS of the other rows within {100 * check.largest_error:.1f} %."
    )


def papers(checks: Sequence[PaperCheck]) -> str:
    """The same for all networks in one sentence; empty without checks."""
    errors = ", ".join(f"{plain(check.model)} {100 * check.largest_error:.1f} %" for check in checks)
    return f"The calibration rule predicts the FPS in the paper's table within: {errors}." if checks else ""


def failures(facts: Facts) -> str:
    """How many cells are missing, and the reason for the first; empty if no cell is missing."""
    if not facts.failed or not facts.measured:
        return ""
    reason = facts.failed[0].error or "no reason was recorded"
    return f"{len(facts.failed)} of {counted(len(facts.cells), 'cell')} could not be measured: {sentence(reason)}"


def gaps(facts: Facts) -> str:
    """What is missing beside whole cells: runs of a cell, and the routes on their own; empty if nothing is."""
    partly = [item.cell for item in facts.measured if item.cell.missing]
    lines = []
    if partly:
        runs = counted(sum(len(cell.missing) for cell in partly), "run")
        lines.append(
            f"{runs} of {counted(len(partly), 'cell')} could not be measured: {sentence(partly[0].missing[0])}"
        )
    if facts.sweep.missing_routes is not None:
        lines.append(f"The two routes could not be measured on their own: {sentence(facts.sweep.missing_routes)}")
    return " ".join(lines)


def replayed(facts: Facts) -> str:
    """Says so where the sweep was put together from several runs of the command; empty where it was not."""
    found = facts.sweep.replayed
    return "" if found is None else plain(str(found))


def lateness(facts: Facts) -> str:
    """Where the client of an open loop was late, so latencies include the client; empty if it was never late."""
    late = [cell for cell in facts.cells if cell.warning]
    if not late:
        return ""
    cells = counted(len(late), "cell")
    return f"In {cells}, the client of the open loop did not send on time: {sentence(late[-1].warning or '')}"


def repeats(facts: Facts) -> str:
    """Says so where perf_analyzer hung or lost requests and was started again; empty where it did not."""
    return repeats_text(facts.sweep.repeats)


def _at_threshold(facts: Facts, found: Measured) -> str:
    return f"At threshold {facts.threshold_text(found.threshold)} and {found.load}"


def _ap(found: Measured) -> str:
    return f"{found.accuracy.ap:.1f}" if found.accuracy else "?"


def _ap_at_ms(found: Measured) -> str:
    return f"{_ap(found)} at {milliseconds(found.latency.mean_ms)}"
