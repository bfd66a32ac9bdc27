"""Draws with matplotlib and returns SVG that a page can inline: text stays text, colours are the page's."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from dynamicdet.extras import missing_extra

try:
    from markupsafe import Markup
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis, XAxis
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
except ImportError as error:
    raise missing_extra("a report needs matplotlib and jinja2", "matplotlib", "jinja2", among=("bench",)) from error

WIDTH, HEIGHT = 400.0, 290.0
"""Size of a plot in CSS pixels; its text stays readable if a phone shows it at four fifths."""

INK, MUTED, GRID, PAPER = "#1b1f23", "#59636e", "#dfe3e8", "#fdfdfc"


@dataclass(frozen=True)
class Series:
    """How one series differs from the others: by colour, and by dash and marker without colour."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str
    hatch: str = ""


# Okabe and Ito's colours, without those too pale for white; the page brightens them on a dark ground.
SERIES = (
    Series("#0072b2", "-", "o"),
    Series("#d55e00", (0, (5, 2)), "s", "////"),
    Series("#009e73", (0, (1, 1.3)), "^", "...."),
    Series("#cc79a7", (0, (6, 2, 1, 2)), "D", "xxxx"),
    Series("#000000", (0, (3, 1.5)), "v"),
)

# The page's stylesheet defines these for light and dark.
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    series.colour: f"--series-{index}" for index, series in enumerate(SERIES, 1)
}

_SETTINGS: Any = {  # matplotlib's types know each key by name
    "svg.fonttype": "none",
    "svg.hashsalt": "dyndet",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 11.0,
    "axes.titlesize": 11.0,
    "legend.fontsize": 10.5,
    "hatch.linewidth": 0.7,
}
_PIXELS_PER_INCH = 72.0
_LOG_FROM_RATIO = 12.0
_FONT = re.compile(r"font: (?:(bold|[5-9]00) )?[^;]*?([\d.]+px)[^;]*")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """An inline SVG and a sentence that says what it shows; a note says what it leaves out."""

    title: str
    finding: str
    note: str
    svg: Markup
    """its names are escaped"""


@contextmanager
def drawing() -> Iterator[None]:
    """Settings in force while plots are drawn and written; matplotlib's own are restored afterwards."""
    with rc_context(_SETTINGS), warnings.catch_warnings():
        # The page's fonts draw the text; matplotlib's own is only asked for widths.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_axes(x_label: str, y_label: str, *, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Empty axes in the report's style. Use inside of `drawing`."""
    figure = Figure(figsize=(WIDTH / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(color=MUTED, labelcolor=MUTED)
    return figure, axes


def add_legend(figure: Figure, *, columns: int = 2) -> None:
    """Names of the series above the axes, so they cover nothing."""
    figure.legend(
        loc="outside upper left", ncols=columns, frameon=False, labelcolor=INK, handlelength=2.6, columnspacing=1.2
    )


def log_if_wide(axis: Axis, values: Sequence[float]) -> bool:
    """Make the axis logarithmic, with plain labels at 1, 2 and 5, if positive values are far apart."""
    if not values or not max(values) > _LOG_FROM_RATIO * min(values) > 0:
        return False
    set_scale = axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    formatter = ScalarFormatter()
    formatter.set_scientific(False)
    axis.set_major_formatter(formatter)
    return True


def finish(figure: Figure, *, name: str, title: str, finding: str, note: str = "") -> Plot:
    """The plot of a finished figure; `name` is unique on the page and separates its ids from other plots'."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if _local(child.tag) in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        _adapt(element, name)
    label = f"{title}. {finding}"
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label, "class": "plot"}
    return Plot(title=title, finding=finding, note=note, svg=Markup(ElementTree.tostring(root, encoding="unicode")))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _adapt(element: ElementTree.Element, name: str) -> None:
    """No namespaces, own ids, the page's font, and colours by variable: attributes cannot hold those, styles can."""
    element.tag = _local(element.tag)
    found = {_local(key): value.replace("url(#", f"url(#{name}-") for key, value in element.attrib.items()}
    if "id" in found:
        found["id"] = f"{name}-{found['id']}"
    if "href" in found:
        found["href"] = found["href"].replace("#", f"#{name}-")
    paints = [f"{key}: {found.pop(key)}" for key in ("fill", "stroke") if key in found]
    style = "; ".join([*paints, found.pop("style", "")]).strip("; ")
    style = _FONT.sub(_size_and_weight, style)
    style = _COLOUR.sub(lambda match: f"var({_VARIABLES.get(match[0], '--ink')})", style)
    element.attrib = found | ({"style": style} if style else {})


def _size_and_weight(match: re.Match[str]) -> str:
    return f"font-size: {match[2]}" + (f"; font-weight: {match[1]}" if match[1] else "")


def style_latency_axes(axes: Axes, *, font_points: float, margins: tuple[float, float]) -> None:
    """AP over mean latency: labels in `font_points`, a grid below the curves, and margins (x, y) as shares."""
    axes.set_xlabel("mean latency (ms)", color=INK, fontsize=font_points)
    axes.set_ylabel("COCO AP (%)", color=INK, fontsize=font_points)
    axes.tick_params(color=MUTED, labelcolor=MUTED, labelsize=font_points)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.margins(x=margins[0], y=margins[1])
