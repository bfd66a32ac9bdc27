"""Draws average precision over the share of hard images: the router between random routing and the oracle."""

from __future__ import annotations

from pathlib import Path

from dynamicdet.evaluation.evaluate import Evaluation
from dynamicdet.evaluation.points import RoutePrecision
from dynamicdet.extras import missing_extra
from dynamicdet.files import whole_file
from dynamicdet.text import printable

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    raise missing_extra("a plot needs matplotlib", "matplotlib", among=("train",)) from error

_INK, _MUTED, _GRID = "#222222", "#666666", "#e3e3e3"
# Colour-blind readers can tell the colours apart (Okabe-Ito); dashes and markers differ in print without colour.
_CURVES = {
    "oracle (knows both losses)": ("#009e73", (0, (5, 2)), "^", 4.5),
    "router": ("#0072b2", "-", "o", 5.0),
    "random": ("#d55e00", (0, (1, 1.5)), "s", 3.5),
}


def draw(evaluation: Evaluation, path: Path, *, caption: str) -> None:
    """Write a .png or .svg with the three curves; the oracle's is left out if it is not known.

    Masks have their curves beside those of the boxes.
    """
    title = "Average precision over the share of images sent to detector 2"
    panels: list[tuple[str, str, RoutePrecision]] = [(title, "COCO AP at IoU 0.50:0.95 (%)", evaluation)]
    if evaluation.masks is not None:
        panels = [
            (title, "COCO box AP at IoU 0.50:0.95 (%)", evaluation),
            ("The same of the masks", "COCO mask AP at IoU 0.50:0.95 (%)", evaluation.masks),
        ]
    figure = Figure(figsize=(7.2 * len(panels), 4.8), layout="constrained")
    for axes, (heading, unit, precision) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_curves(axes, precision)
        axes.set_title(heading, loc="left", fontsize=11, color=_INK)
        axes.set_ylabel(unit, color=_INK)
    figure.supxlabel(printable(caption), fontsize=8, color=_MUTED, x=0.01, ha="left", parse_math=False)
    with whole_file(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=160, format=path.suffix[1:].lower() or "png")


def _draw_curves(axes: Axes, precision: RoutePrecision) -> None:
    heights: dict[str, list[tuple[float, float]]] = {name: [] for name in _CURVES}
    for point in precision.curve:
        for name, one in zip(_CURVES, (point.oracle, point.precision, point.random), strict=True):
            if one is not None:
                heights[name].append((point.hard_share, one.ap))
    for name, (colour, dash, marker, size) in _CURVES.items():
        if heights[name]:
            x, y = zip(*heights[name], strict=True)
            axes.plot(x, y, color=colour, ls=dash, marker=marker, ms=size, lw=1.8, label=name)
    _annotate_ends(axes, precision)
    axes.set_xlabel("hard share (% of images sent to detector 2)", color=_INK)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_xticks([tenth / 10 for tenth in range(11)])
    axes.set_xlim(-0.13, 1.13)  # room for the names of the ends
    axes.margins(y=0.1)
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_MUTED)
    axes.legend(frameon=False, loc="best")


def _annotate_ends(axes: Axes, precision: RoutePrecision) -> None:
    """Label the two ends beside the curves, where no line crosses the words."""
    for x, ap, text, outwards in ((0.0, precision.easy.ap, "all easy", -1), (1.0, precision.hard.ap, "all hard", 1)):
        axes.annotate(
            f"{text}\n{ap:.1f} %",
            (x, ap),
            xytext=(9 * outwards, 0),
            textcoords="offset points",
            ha="right" if outwards < 0 else "left",
            va="center",
            color=_INK,
            fontsize=9,
        )
