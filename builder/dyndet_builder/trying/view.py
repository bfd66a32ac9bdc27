"""The elements of the page and what they show of a `Tab`; nothing here decides or asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui

from dynamicdet.text import printable
from dyndet_builder.trying import markup
from dyndet_builder.trying.asking import MIN_SCORE
from dyndet_builder.trying.intake import MAX_UPLOAD_BYTES
from dyndet_builder.trying.points import Promise
from dyndet_builder.trying.tab import Shot, Tab

OWN_THRESHOLD = ""
"""in the list of operating points: a threshold of one's own"""
_OWN = "A threshold of my own"
THRESHOLD_STEP = 0.001
_SHAPES = (0.75, 1.8)
"""width over height of the frames in which pictures are shown, at least and at most"""
_ACCEPT = ".jpg,.jpeg,.png,.webp,.bmp,.gif,.tif,.tiff,.ppm,.pgm"
_LINES = 'viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linejoin="round"'
_DROP = f"""
<label class="drop" for="file"><svg {_LINES} stroke-linecap="round"><path d="M12 16V4m0 0L7 9m5-5 5 5M4 16v3a1 1 0 0 0 1
1h14a1 1 0 0 0 1-1v-3"/></svg><span><strong>Drop pictures, paste or choose</strong><small>JPEG, PNG, WebP and others, up
to {MAX_UPLOAD_BYTES >> 20} MB</small></span><input id="file" type="file" multiple accept="{_ACCEPT}"
aria-label="Choose pictures"></label><div class="ways"><button id="camera" class="plain" type="button"
aria-pressed="false"><svg {_LINES}><rect x="3" y="6" width="12" height="12" rx="2"/><path d="m15 11 6-4v10l-6-4"/></svg>
<span id="camera-words">Use the camera</span></button><video id="live" muted playsinline hidden></video><span
id="camera-note" role="status"></span></div>
"""
_LOGO = """
<svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#2459d6"/><path
d="M6 16h6m0 0 6-6h7m-13 6 6 6h7" stroke="#fff" stroke-width="2.6" fill="none" stroke-linecap="round"
stroke-linejoin="round"/></svg>
"""
_HALF_MOON = (
    f"<svg {_LINES}><circle cx='12' cy='12' r='8.5'/><path d='M12 3.5a8.5 8.5 0 0 1 0 17z' fill='currentColor'/></svg>"
)
_SMALL_PRINT = (
    "Each picture is sent twice, once for each route, so the threshold can be moved without asking the server again. "
    "Times are measured by this page, from request to answer, one request at a time; resizing the picture is not part "
    "of them. Pictures go to the detector's server only. They stay in the memory of this page until its tab is closed."
)


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What the page does when its user acts."""

    move_threshold: Callable[[float], None]
    choose_point: Callable[[str], None]
    move_score: Callable[[float], None]
    try_sample: Callable[[Path], Any]
    try_samples: Callable[[], Any]
    show_again: Callable[[Shot], None]
    forget: Callable[[], None]


class View:
    """The elements of one tab."""

    def __init__(self, tab: Tab, actions: Actions, *, subject: str, token: str, samples: Sequence[Path]) -> None:
        self._tab, self._actions, self._token = tab, actions, token
        ui.colors(primary="#2459d6")
        self._build_bar(subject)
        self._banner = ui.label().classes("banner").props('role="alert"')
        with ui.element("section").classes("card intake"):
            self._build_intake(samples)
        with ui.element("div").classes("columns"):
            with ui.element("section").classes("card"):
                self._build_routes()
            with ui.element("aside").classes("side"):
                self._build_threshold()
                self._build_so_far()
        ui.label(_SMALL_PRINT).classes("small-print")
        self.show_problem(None)
        self.show_note("")
        self.show_picture()
        self.show_strip()

    def show_problem(self, problem: str | None) -> None:
        """Say why the server does not answer; None: it does."""
        self._dot.classes(replace="dot" if problem is None else "dot away")
        self._banner.visible = problem is not None
        if problem is not None:
            self._banner.text = f"{_sentence(problem)} This page goes on when the server is back."

    def show_note(self, note: str) -> None:
        """Say what is wrong with a picture; empty: nothing is."""
        self._note.text = f"{note}." if note else ""
        self._note.visible = bool(note)

    def show_progress(self, done: int | None, of: int) -> None:
        """How many of the samples are done; None: none is being tried."""
        self._all.content = "Try all" if done is None else f"{done} of {of}"

    def show_picture(self) -> None:
        """The current picture with both answers, and everything that depends on it."""
        for route in self._routes:
            route.show_picture(self._tab.current, self._token)
        self.show_boxes()
        self.show_threshold()

    def show_boxes(self) -> None:
        """The objects with at least the minimum score."""
        tab = self._tab
        self._least.content = f"{tab.min_score:.2f}"
        for route in self._routes:
            route.show_boxes(tab)
        self._more.content = "" if tab.current is None else markup.finds_more(tab.current, tab.min_score)
        self._trade.content = markup.trade(tab)

    def show_threshold(self) -> None:
        """The threshold in force, and what it makes of the pictures so far."""
        tab = self._tab
        self._value.content = f"{tab.threshold:.3f}"
        self._slider.value = tab.threshold
        self._select.value = tab.point or OWN_THRESHOLD
        kind = "" if tab.current is None else "hard" if tab.is_hard else "easy"
        self._verdict.content = markup.verdict(tab)
        self._verdict.classes(replace=f"verdict {kind}")
        for route in self._routes:
            route.show_taken(kind)
        self._histogram.content = markup.histogram(tab)
        self._numbers.content = markup.so_far(tab)
        self._between.content = markup.between(tab)
        self._trade.content = markup.trade(tab)
        self._promise.content = markup.promised(tab.promise, tab.numbers)
        for number, thumb in self._thumbs.items():
            shot = tab.shot(number)
            if shot is not None:
                thumb.classes(replace=_thumb_classes(tab, shot))

    def show_points(self) -> None:
        """The operating points to choose from, and the one that is chosen."""
        points = self._tab.points
        names = {name: _label(name, promise) for name, promise in points.promises.items()}
        self._select.set_options({OWN_THRESHOLD: _OWN, **names}, value=self._tab.point or OWN_THRESHOLD)
        self._select.visible = bool(names)
        self.show_threshold()

    def show_strip(self) -> None:
        """The pictures that can be looked at again, newest first."""
        self._strip.clear()
        self._thumbs.clear()
        self._seen.visible = bool(self._tab.shots)
        with self._strip:
            for shot in reversed(self._tab.shots):
                source = f"seen/{self._token}/{shot.number}/small.jpg"
                thumb = _thumb(source, f"Show {shot.name} again", partial(self._actions.show_again, shot))
                self._thumbs[shot.number] = thumb.classes(replace=_thumb_classes(self._tab, shot))

    def _build_bar(self, subject: str) -> None:
        with ui.element("header").classes("bar"):
            ui.html(_LOGO, sanitize=False)
            ui.html("Try a dynamic detector", tag="h1", sanitize=False)
            with ui.element("div").classes("where"):
                self._dot = ui.element("i").classes("dot")
                ui.html(subject, tag="span", sanitize=False)
            self._dark = ui.dark_mode(value=None)
            button = _button(_HALF_MOON, "plain round", self._switch_dark)
            button.props["aria-label"] = button.props["title"] = "Switch between light and dark"

    async def _switch_dark(self) -> None:
        self._dark.value = not await ui.run_javascript("document.body.classList.contains('body--dark')")

    def _build_intake(self, samples: Sequence[Path]) -> None:
        with ui.element("div"):
            ui.html(_DROP, sanitize=False)
            self._note = ui.label().classes("note").props('role="alert"')
        with ui.element("div").classes("shelf"):
            if samples:
                with ui.element("div").classes("label"):
                    ui.label("Samples")
                    self._all = _button("Try all", "link", self._actions.try_samples)
                with ui.element("div").classes("strip samples"):
                    for number, path in enumerate(samples):
                        name = printable(path.name, limit=100)
                        _thumb(f"sample/{number}.jpg", f"Try {name}", partial(self._actions.try_sample, path))
            with ui.element("div") as self._seen:
                with ui.element("div").classes("label"):
                    ui.label("Pictures so far")
                    _button("Start again", "link", self._actions.forget)
                self._strip = ui.element("div").classes("strip seen")
            self._thumbs: dict[int, ui.element] = {}

    def _build_routes(self) -> None:
        self._verdict = ui.html("", sanitize=False).props('aria-live="polite"')
        with ui.element("div").classes("routes"):
            self._routes = (_Route("easy"), _Route("hard"))
        self._more = ui.html("", sanitize=False).classes("more-line")

    def _build_threshold(self) -> None:
        act = self._actions
        with ui.element("section").classes("card"):
            with ui.element("h2"):
                ui.label("Threshold")
                self._value = ui.html("", tag="output", sanitize=False)
            self._histogram = ui.html("", sanitize=False)
            with ui.element("div").classes("slider-line"):
                self._slider = ui.slider(min=0, max=1, step=THRESHOLD_STEP, value=self._tab.threshold)
                self._slider.on_value_change(lambda event: act.move_threshold(event.value))
                self._slider.props('aria-label="Threshold"').classes("threshold")
            axis = "<span>0: all hard</span><span>difficulty</span><span>1: all easy</span>"
            ui.html(axis, sanitize=False).classes("axis")
            ui.html(markup.legend(self._tab.calibration), sanitize=False).classes("legend")
            self._select = ui.select({OWN_THRESHOLD: _OWN}, label="Operating point", value=OWN_THRESHOLD)
            self._select.on_value_change(lambda event: act.choose_point(event.value))
            self._select.props("outlined dense options-dense").classes("point").visible = False
            self._promise = ui.html("", sanitize=False).classes("promise")

    def _build_so_far(self) -> None:
        with ui.element("section").classes("card"):
            ui.html("So far", tag="h2", sanitize=False)
            self._numbers = ui.html("", sanitize=False).classes("numbers")
            self._between = ui.html("", sanitize=False)
            self._trade = ui.html("", sanitize=False).classes("trade")
            with ui.element("h2").classes("least"):
                ui.label("Minimum score")
                self._least = ui.html("", tag="output", sanitize=False)
            with ui.element("div").classes("slider-line"):
                slider = ui.slider(min=MIN_SCORE, max=0.95, step=0.01, value=self._tab.min_score)
                slider.on_value_change(lambda event: self._actions.move_score(event.value))
                slider.props('aria-label="Minimum score"').classes("score")


class _Route:
    """One answer: the picture with its boxes, and how long it took."""

    def __init__(self, kind: str) -> None:
        self._hard = kind == "hard"
        self._place = "second" if self._hard else "first"
        with ui.element("article") as self._all:
            with ui.element("header"):
                ui.html("Detector 2" if self._hard else "Detector 1", tag="h2", sanitize=False)
                ui.html("answers", tag="span", sanitize=False).classes("pill")
                self._facts = ui.html("", sanitize=False).classes("facts")
            with ui.element("div").classes("frame") as self._frame:
                self._empty = ui.html("no picture yet", tag="span", sanitize=False).classes("empty")
                with ui.element("div").classes("fit") as self._fit:
                    self._image = ui.element("img").props('alt="The picture"')
                    self._boxes = ui.html("", sanitize=False)
            self._odd = ui.html("", sanitize=False).classes("odd")

    def show_picture(self, shot: Shot | None, token: str) -> None:
        self._empty.visible = shot is None
        self._fit.visible = shot is not None
        if shot is None:
            return
        ratio = shot.size[0] / shot.size[1]
        self._frame.style(replace=f"aspect-ratio:{min(_SHAPES[1], max(_SHAPES[0], ratio)):.4f}")
        self._fit.style(replace=f"--ratio:{ratio:.4f}")
        self._image.props["src"] = f"seen/{token}/{shot.number}/shown.jpg"

    def show_boxes(self, tab: Tab) -> None:
        shot = tab.current
        if shot is None:
            self._boxes.content = self._facts.content = self._odd.content = ""
            return
        rows = shot.rows(tab.min_score)[1 if self._hard else 0]
        found = shot.answers.hard if self._hard else shot.answers.easy
        self._boxes.content = markup.boxes(found, rows, shot.more(tab.min_score) if self._hard else ())
        self._facts.content = markup.route_facts(shot, tab.min_score, hard=self._hard)
        self._odd.content = markup.route_note(shot, hard=self._hard)

    def show_taken(self, kind: str) -> None:
        """Whether the picture takes this route (`kind` is `easy` or `hard`) or the other; empty: no picture."""
        state = "" if not kind else "taken" if (kind == "hard") == self._hard else "left"
        self._all.classes(replace=f"route {self._place} {state}")


def _button(words: str, kind: str, act: Callable[[], Any]) -> ui.html:
    return ui.html(words, tag="button", sanitize=False).classes(kind).props("type=button").on("click", act)


def _thumb(source: str, words: str, act: Callable[[], Any]) -> ui.element:
    with ui.element("button").classes("thumb").on("click", act) as thumb:
        image = ui.element("img").props("alt='' loading=lazy")
        image.props["src"] = source
    thumb.props["title"] = thumb.props["aria-label"] = words
    return thumb


def _thumb_classes(tab: Tab, shot: Shot) -> str:
    kind = "hard" if shot.answers.seen.is_hard(tab.threshold) else "easy"
    return f"thumb {kind}{' now' if shot is tab.current else ''}"


def _label(name: str, promise: Promise) -> str:
    """An operating point in the list: its name and its promise."""
    return f"{printable(name, limit=40)}: {promise.text}"


def _sentence(words: str) -> str:
    shown = printable(words)
    return f"{shown[:1].upper()}{shown[1:]}{'' if shown.endswith('.') else '.'}"
