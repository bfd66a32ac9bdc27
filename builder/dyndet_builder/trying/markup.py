"""The parts of the page that show results, as HTML. Everything that others named is escaped here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from html import escape

from dynamicdet.text import printable
from dyndet_builder.trying.history import BINS, Numbers
from dyndet_builder.trying.overlay import masks
from dyndet_builder.trying.points import Calibration, Promise
from dyndet_builder.trying.tab import MOST_SEEN, Shot, Tab
from dyndet_client.detections import Detections
from dyndet_client.drawing import class_colour

_LONGEST = 60
_RIGHT, _TOP = 0.7, 0.08
"""shares of the picture beyond which a label turns inwards"""


def text(words: object, *, limit: int | None = None) -> str:
    """Words of others, fit for a page."""
    return escape(printable(words, limit=limit))


def boxes(found: Detections, rows: Sequence[int], more: Collection[int] = ()) -> str:
    """The objects in these rows over the picture, masks below; those in `more` stand out.

    Sizes are shares of the picture.
    """
    width, height = found.image_size
    parts = [masks(found, rows)]
    for row in reversed(rows):  # the surest lies on top
        left, top, right, bottom = found.boxes[row].tolist()
        red, green, blue = class_colour(int(found.classes[row]))
        kinds = ["box"]
        kinds += ["more"] if row in more else []
        kinds += ["flip"] if left / width > _RIGHT else []
        kinds += ["inside"] if top / height < _TOP else []
        parts.append(
            f'<div class="{" ".join(kinds)}" style="left:{left / width:.4%};top:{top / height:.4%};'
            f"width:{(right - left) / width:.4%};height:{(bottom - top) / height:.4%};"
            f'--c:rgb({red},{green},{blue})"><span>{text(found.names[row], limit=_LONGEST)}'
            f"<i>{found.scores[row]:.2f}</i></span></div>"
        )
    return "".join(parts)


def route_facts(shot: Shot, min_score: float, *, hard: bool) -> str:
    """How many objects a route found and how long it took."""
    rows = shot.rows(min_score)[1 if hard else 0]
    ms = shot.answers.seen.hard_ms if hard else shot.answers.seen.easy_ms
    return f"<b>{_objects(len(rows))}</b><b>{ms:.1f} ms</b>"


def route_note(shot: Shot, *, hard: bool) -> str:
    """What is odd about an answer; empty if nothing is."""
    if hard and shot.answers.hard.route == "fallback":
        return "Detector 2 failed for this picture, so detector 1 answered."
    if not hard and shot.answers.easy.route != "easy":
        return "The router gave no difficulty, so only detector 2 answers this picture."
    return ""


def verdict(tab: Tab) -> str:
    """Which route the current picture takes, and why."""
    shot = tab.current
    if shot is None:
        return "<strong>No picture yet</strong><span>Drop one, choose a sample, or start the camera.</span>"
    difficulty, hard = shot.answers.seen.difficulty, tab.is_hard
    if math.isnan(difficulty):
        why = "the router gave no difficulty, which counts as hard"
    else:
        sign = "above" if hard else "not above"
        why = f"difficulty {difficulty:.3f} is {sign} the threshold {tab.threshold:.3f}"
    taken_ms = shot.answers.seen.taken_ms(tab.threshold)
    head = "Hard picture: detector 2 answers" if hard else "Easy picture: detector 1 is enough"
    return (
        f"<strong>{head}</strong><span>{text(shot.name)}: {why}; "
        f"{taken_ms:.1f} ms{'' if hard else f' instead of {shot.answers.seen.hard_ms:.1f} ms'}.</span>"
    )


def finds_more(shot: Shot, min_score: float) -> str:
    """What only detector 2 shows, in one sentence."""
    names = Counter(shot.answers.hard.names[row] for row in shot.more(min_score))
    if not names:
        return "Detector 2 shows nothing here that detector 1 misses."
    listed = ", ".join(f"{count} × {text(name, limit=_LONGEST)}" for name, count in names.most_common(8))
    return f"Detector 2 shows <b>{_objects(names.total())}</b> more: {listed}{', …' if len(names) > 8 else ''}."


def histogram(tab: Tab) -> str:
    """Difficulties of the pictures so far, of the calibration's pictures, and of the current one."""
    easy, hard = tab.histogram()
    total = max(1, sum(easy) + sum(hard))
    shares = [count / total for count in easy], [count / total for count in hard]
    calibration = tab.calibration
    known = (0.0,) * BINS if calibration is None else calibration.shares()
    tallest = max(0.04, *known, *(a + b for a, b in zip(*shares, strict=True)))
    width = 100 / BINS
    bars = []
    for place, (low, high) in enumerate(zip(*shares, strict=True)):
        left, low, high = place * width, 38 * low / tallest, 38 * high / tallest
        bars.append(_bar(left, 40 - low, width, low, "easy") + _bar(left, 40 - low - high, width, high, "hard"))
    at = f"{tab.threshold:.3%}"
    shot = tab.current
    here = ""
    if shot is not None and not math.isnan(shot.answers.seen.difficulty):
        here = f'<i class="here" style="left:{shot.answers.seen.difficulty:.3%}"></i>'
    return (
        f'<div class="plot"><svg viewBox="0 0 100 40" preserveAspectRatio="none" role="img" '
        f'aria-label="Histogram of difficulties">{_outline(known, tallest)}{"".join(bars)}</svg>'
        f'<i class="cut" style="left:{at}"></i>{here}</div>'
    )


def _bar(left: float, top: float, width: float, height: float, kind: str) -> str:
    if height <= 0:
        return ""
    return f'<rect class="{kind}" x="{left + 0.3:.2f}" y="{top:.2f}" width="{width - 0.6:.2f}" height="{height:.2f}"/>'


def _outline(shares: Sequence[float], tallest: float) -> str:
    """The calibration's pictures, as steps behind the bars."""
    if not any(shares):
        return ""
    width = 100 / BINS
    steps = "".join(f"V{40 - 38 * share / tallest:.2f}H{(place + 1) * width:.2f}" for place, share in enumerate(shares))
    return f'<path class="known" d="M0 40{steps}V40Z"/>'


def legend(calibration: Calibration | None) -> str:
    """What the colours of the histogram mean."""
    known = "" if calibration is None else '<span><i class="known"></i>calibration pictures</span>'
    return (
        '<span><i class="easy"></i>easy so far</span><span><i class="hard"></i>hard so far</span>'
        f'{known}<span><i class="mark"></i>this picture</span>'
    )


def so_far(tab: Tab) -> str:
    """Share of hard pictures and mean latency, beside what the calibration makes one expect."""
    found, calibration = tab.numbers, tab.calibration
    hard = "–" if found is None else f"{found.hard_share:.0%}"
    mean = "–" if found is None else f"{found.mean_ms:.1f}<small> ms</small>"
    expected = ("", "")
    if calibration is not None:
        expected = (
            f"calibration: {calibration.hard_share(tab.threshold):.0%}",
            f"calibration: {calibration.mean_ms(tab.threshold):.1f} ms",
        )
    count = "0" if found is None else str(found.pictures)
    return (
        _number("pictures", count, f"the last {MOST_SEEN}" if count == str(MOST_SEEN) else "in this tab")
        + _number("hard", hard, expected[0])
        + _number("mean latency", mean, expected[1])
    )


def _number(name: str, value: str, below: str) -> str:
    return f'<div class="number"><span>{name}</span><strong>{value}</strong><small>{below}</small></div>'


def between(tab: Tab) -> str:
    """Where the mean so far lies between all easy and all hard."""
    found = tab.numbers
    if found is None or found.all_hard_ms <= found.all_easy_ms:
        return ""
    at = (found.mean_ms - found.all_easy_ms) / (found.all_hard_ms - found.all_easy_ms)
    saved = 1 - found.mean_ms / found.all_hard_ms
    less = f"{saved:.0%} less time than all hard" if saved >= 0.005 else "as slow as all hard"
    return (
        f'<div class="scale"><i style="left:{min(1.0, max(0.0, at)):.1%}"></i></div><div class="ends">'
        f"<span>all easy<br>{found.all_easy_ms:.1f} ms</span><b>{less}</b>"
        f"<span>all hard<br>{found.all_hard_ms:.1f} ms</span></div>"
    )


def trade(tab: Tab) -> str:
    """What the threshold costs: objects that only detector 2 shows, in pictures that it does not get."""
    found = tab.numbers
    if found is None:
        return ""
    more = found.gained + found.missed
    if not more:
        return "Detector 2 shows nothing so far that detector 1 misses."
    return (
        f"Detector 2 shows <b>{_objects(more)}</b> that detector 1 misses: {found.gained} in hard pictures, where you "
        f"get {'it' if found.gained == 1 else 'them'}, and {found.missed} in easy ones."
    )


def promised(promise: Promise | None, found: Numbers | None) -> str:
    """The promise of the chosen operating point beside the pictures so far."""
    if promise is None or promise.goal is None or promise.statistic is None:
        return ""
    so_far_ms = None if found is None else found.statistic(promise.statistic)
    if promise.unit != "ms":
        return f"Promise: {promise.text}. Single pictures cannot show a throughput."
    if so_far_ms is None:
        return f"Promise: {text(promise.text)}."
    kept = so_far_ms <= promise.goal * 1.03
    return (
        f'Promise: {text(promise.text)}. So far: <b class="{"kept" if kept else "over"}">{so_far_ms:.1f} ms'
        f"{'' if kept else ', above it'}</b>."
    )


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"
