"""Draws the demo's contact sheet: each picture as detector 1 sees it, as detector 2 sees it, and as it is."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from dynamicdet.files import whole_file
from dynamicdet.images import read_image
from dynamicdet.matching import Objects, added, tally
from dynamicdet.text import counted, printable
from dyndet_builder.demo_pictures import MIN_SCORE, REPEATS, Showing, Shown, Side, Total, Totals
from dyndet_client.drawing import (
    MISSED,
    RIGHT,
    TRUTH,
    WRONG,
    Colour,
    Font,
    Mark,
    compared_marks,
    draw_marks,
    truth_marks,
)

WIDTH = 1400
_MARGIN, _GAP, _ROW_GAP = 30, 14, 22
_CAPTION = 300
_PANEL = (WIDTH - 2 * _MARGIN - _CAPTION - 3 * _GAP) // 3
_PICTURE, _STRIP = 236, 32
"""height of a picture's place, and of the line above it"""
_HEAD, _FOOT = 196, 184

_PAPER: Colour = (251, 251, 249)
_PLACE: Colour = (233, 236, 238)
_LINE: Colour = (196, 203, 210)
_INK: Colour = (27, 31, 35)
_MUTED: Colour = (84, 94, 104)
_EASY: Colour = (0, 114, 178)
_HARD: Colour = (178, 70, 0)
_LEGEND = (
    (RIGHT, False, "object found"),
    (MISSED, True, "object missed"),
    (WRONG, False, "wrong box"),
    (TRUTH, False, "labelled object"),
)
_LONGEST_NAME = 24


def write_sheet(showing: Showing, path: Path) -> None:
    """Draw the contact sheet into a PNG file, which replaces an earlier one. Raises InputError if it cannot."""
    with whole_file(path, durable=False) as temporary:
        draw_sheet(showing).save(temporary, format="PNG", optimize=True)


def draw_sheet(showing: Showing) -> Image.Image:
    """The contact sheet, `WIDTH` pixels wide: a row for each picture, from the easiest to the hardest."""
    pitch = _STRIP + _PICTURE + _ROW_GAP
    sheet = Image.new("RGB", (WIDTH, _HEAD + len(showing.shown) * pitch + _FOOT), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, 0, WIDTH - 1, sheet.height - 1), outline=_LINE, width=2)  # an edge on white and on black
    _draw_head(sheet, draw, showing)
    for number, shown in enumerate(showing.shown):
        _draw_row(sheet, draw, shown, showing.threshold, _HEAD + number * pitch)
    _draw_foot(draw, showing, sheet.height - _FOOT + 12)
    return sheet


def _font(pixels: int, *, bold: bool = False) -> Font:
    """The font of matplotlib, which is there wherever the report can be drawn."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, pixels)


def _draw_head(sheet: Image.Image, draw: ImageDraw.ImageDraw, showing: Showing) -> None:
    levels = [str(shown.level) for shown in showing.shown]
    spread = f"percentiles {', '.join(levels[:-1])} and {levels[-1]}" if len(levels) > 1 else f"percentile {levels[0]}"
    draw.text((_MARGIN, 24), "Easy pictures stop at detector 1. Hard ones go on to detector 2.",
              font=_font(31, bold=True), fill=_INK)  # fmt: skip
    rule = (
        f"Chosen by difficulty alone: the pictures at {spread} of {showing.totals.pictures:,}. "
        f"Boxes with a score of at least {MIN_SCORE}."
    )
    draw.text((_MARGIN, 72), rule, font=_font(17), fill=_MUTED)
    x = _MARGIN
    for colour, is_dashed, name in _LEGEND:
        swatch = Image.new("RGB", (44, 26), _PLACE)
        draw_marks(swatch, [Mark(box=(3, 3, 41, 23), colour=colour, is_dashed=is_dashed)], font=_font(10), line=3)
        sheet.paste(swatch, (x, 106))
        draw.text((x + 54, 119), name, font=_font(17), fill=_INK, anchor="lm")
        x += 54 + round(draw.textlength(name, font=_font(17))) + 34
    draw.text((x, 119), "thick frame: the answer that the server gives", font=_font(17), fill=_INK, anchor="lm")
    for column, title in enumerate(("detector 1 alone", "both detectors", "truth")):
        draw.text((_column(column), _HEAD - 14), title, font=_font(21, bold=True), fill=_INK, anchor="ls")


def _column(number: int) -> int:
    return _MARGIN + _CAPTION + _GAP + number * (_PANEL + _GAP)


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, shown: Shown, threshold: float, top: int) -> None:
    _draw_caption(draw, shown, threshold, top)
    picture = Image.fromarray(read_image(shown.picture))
    scale = min(_PANEL / picture.width, _PICTURE / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    enlarged = picture.resize(size, Image.Resampling.LANCZOS)
    panels = (
        (_marks(shown.easy, shown.truth), _side_text(shown.easy), not shown.is_hard),
        (_marks(shown.hard, shown.truth), _side_text(shown.hard), shown.is_hard),
        (truth_marks(shown.truth), counted(len(shown.truth), "object", "objects"), False),
    )
    for column, (marks, text, is_answer) in enumerate(panels):
        panel = enlarged.copy()
        draw_marks(panel, [mark.scaled(scale) for mark in marks], font=_font(14), line=3, covers=False)
        left = _column(column)
        frame = (left, top, left + _PANEL - 1, top + _STRIP + _PICTURE - 1)
        draw.rectangle(frame, fill=_PLACE)
        sheet.paste(panel, (left + (_PANEL - size[0]) // 2, top + _STRIP + (_PICTURE - size[1]) // 2))
        _draw_strip(draw, frame, text, _route_colour(shown) if is_answer else None)


def _draw_strip(draw: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], text: str, colour: Colour | None) -> None:
    """The line above a picture; in colour, with a thick frame, for the answer that the server gives."""
    left, top, right, bottom = frame
    if colour is not None:
        draw.rectangle((left, top, right, top + _STRIP - 1), fill=colour)
        draw.rectangle((left - 5, top - 5, right + 5, bottom + 5), outline=colour, width=5)
    font = _font(16, bold=colour is not None)
    draw.text((left + 10, top + _STRIP / 2), text, font=font, fill=_PAPER if colour else _INK, anchor="lm")


def _route_colour(shown: Shown) -> Colour:
    return _HARD if shown.is_hard else _EASY


def _draw_caption(draw: ImageDraw.ImageDraw, shown: Shown, threshold: float, top: int) -> None:
    colour, route = _route_colour(shown), "hard" if shown.is_hard else "easy"
    font = _font(19, bold=True)
    width = round(draw.textlength(route, font=font)) + 28
    draw.rounded_rectangle((_MARGIN, top, _MARGIN + width, top + _STRIP - 1), radius=_STRIP // 2, fill=colour)
    draw.text((_MARGIN + width / 2, top + _STRIP / 2), route, font=font, fill=_PAPER, anchor="mm")
    text = f"difficulty {shown.difficulty:.2f}"
    draw.text((_MARGIN + width + 14, top + _STRIP / 2), text, font=_font(19), fill=_INK, anchor="lm")
    y = _draw_scale(draw, shown.difficulty, threshold, colour, top + _STRIP + 14)
    lines = [(line, _font(22, bold=True), _INK) for line in _wrapped(draw, shown.verdict, _font(22, bold=True), 3)]
    more = tally(printable(name, limit=_LONGEST_NAME) for name in added(shown.easy.matches, shown.hard.matches))
    if more:
        lines += [(line, _font(17), _MUTED) for line in _wrapped(draw, f"new: {more}", _font(17), 3)]
    for line, line_font, fill in lines:
        draw.text((_MARGIN, y), line, font=line_font, fill=fill)
        y += round(getattr(line_font, "size", 17) * 1.35)


def _draw_scale(draw: ImageDraw.ImageDraw, difficulty: float, threshold: float, colour: Colour, y: int) -> int:
    """The difficulty on a line from 0 to 1 with the threshold; returns where the text below begins."""
    left, right = _MARGIN + 4, _MARGIN + _CAPTION - 30
    draw.rounded_rectangle((left, y, right, y + 8), radius=4, fill=_PLACE, outline=_LINE)
    place = left + threshold * (right - left)
    draw.line((place, y - 6, place, y + 14), fill=_INK, width=3)
    text = f"threshold {threshold:.2f}" if 0.005 < threshold < 0.995 else f"threshold {threshold:.4g}"
    half = draw.textlength(text, font=_font(14)) / 2
    middle = min(max(place, left + half), right - half)
    draw.text((middle, y + 18), text, font=_font(14), fill=_MUTED, anchor="ma")
    x = left + difficulty * (right - left)
    draw.ellipse((x - 8, y - 4, x + 8, y + 12), fill=colour, outline=_PAPER, width=2)
    return y + 46


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: Font, most: int) -> list[str]:
    """The text in at most `most` lines that fit the column of captions; dots stand for what does not fit."""
    room, lines = _CAPTION - 16, [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]} …"]


def _side_text(side: Side) -> str:
    found = f"finds {side.matches.hits} of {side.matches.objects}"
    wrong = f", {side.matches.errors} wrong" if side.matches.errors else ""
    return f"{found}{wrong}, {side.latency_ms:.1f} ms"


def _marks(side: Side, truth: Objects) -> list[Mark]:
    return compared_marks(side.detections, side.matches, truth)


def _found(totals: Totals, one: Total) -> str:
    return f"{100 * one.found / max(1, totals.objects):.0f} % found, {one.wrong:,} wrong"


def _draw_foot(draw: ImageDraw.ImageDraw, showing: Showing, top: int) -> None:
    totals = showing.totals
    draw.line((_MARGIN, top - 6, WIDTH - _MARGIN, top - 6), fill=_LINE, width=2)
    draw.text((_MARGIN, top + 8), f"All {totals.pictures:,} pictures", font=_font(19, bold=True), fill=_INK)
    sums = (
        ("detector 1 alone", _found(totals, totals.easy)),
        ("both detectors", _found(totals, totals.hard)),
        ("truth", counted(totals.objects, "object", "objects")),
    )
    for column, (name, text) in enumerate(sums):
        draw.text((_column(column), top + 8), text, font=_font(19, bold=True), fill=_INK)
        draw.text((_column(column), top + 34), name, font=_font(16), fill=_MUTED)
    draw.text((_MARGIN, top + 70), "Answers of the server", font=_font(19, bold=True), fill=_INK)
    draw.text((_MARGIN, top + 96), f"by route, {100 * totals.hard_share:.0f} % hard", font=_font(16), fill=_MUTED)
    draw.text((_column(0), top + 70), _found(totals, totals.routed), font=_font(19, bold=True), fill=_INK)
    if totals.routed.wrong > max(totals.easy.wrong, totals.hard.wrong):  # follows from the three sums
        reason = "Detector 1 draws more wrong boxes than detector 2 in easy pictures, and fewer in hard pictures."
        draw.text((_column(0), top + 96), reason, font=_font(16), fill=_MUTED)
    definition = (
        "Found: a box of the same class overlaps the object by at least half (IoU 0.5); wrong: it overlaps none. "
        f"Times: median of {REPEATS} requests, one at a time."
    )
    draw.text((_MARGIN, top + 130), definition, font=_font(16), fill=_MUTED)
