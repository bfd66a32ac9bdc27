"""Shows the bundle of a pair: its detectors, how far their graphs are from their files, router and resizing."""

from __future__ import annotations

from rich.table import Table

from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import OWN, Bundle, Stage, StageName
from dyndet_client.cli.terminal import Console


def show_pair(console: Console, bundle: Bundle) -> None:
    """Print both detectors, the picture that the model takes, the router, and what resizing costs."""
    console.print(_table(bundle))
    for line in pair_lines(bundle):
        console.print(line, markup=False)


def pair_lines(bundle: Bundle) -> list[str]:
    """What the router and the rules of fitting mean for those who serve the bundle, one sentence or two each."""
    router = bundle.router
    assert router is not None
    by = "labels" if router.by_labels else "the large detector's answers, because there are no labels"
    kept = ", ".join(
        f"{100 * gain:.0f} % at {100 * float(share):.0f} % hard" for share, gain in router.kept_gain.items()
    )
    cost = "" if router.cost is None else f" It adds {100 * router.cost:.1f} % to the small detector's time."
    kind = "a learned router" if router.kind == "learned" else f"the free rule {router.kind!r}"
    lines = [
        f"Router: {kind}, fitted on {router.images} pictures by {by}."
        + (f" Share of the gain that it keeps: {kept}." if kept else "")
        + cost,
        *(f"{name} reads pictures of {fit}." for name, fit in _fits(bundle)),
    ]
    if (resizing := bundle.resizing) is not None:
        what = "AP" if resizing.by_labels else "agreement with the large detector"
        lines.append(
            "The detectors fit pictures by different rules. The model resizes pictures for the small one, which then "
            f"has {resizing.public:.1f} {what} instead of {resizing.own:.1f} ({resizing.public - resizing.own:+.1f}, "
            f"{resizing.images} pictures). Image files (`--encoded`) are fitted by its own rule."
        )
    if bundle.quantization is not None and bundle.parity is not None:
        lines.append(
            f"All this was measured before the graphs were made int8. In int8, boxes move by a median of "
            f"{bundle.quantization.box_px_median:.2f} pixels, difficulties change by up to "
            f"{bundle.parity.difficulty:.3f}, and {bundle.parity.route_flip_share:.1%} of the routes flip."
        )
    return lines


def _fits(bundle: Bundle) -> list[tuple[str, str]]:
    """What reads pictures, and by which rule they are fitted."""
    if OWN not in bundle.stages:
        return [("The model", str(bundle.fit))]
    first = bundle.stages[OWN].detector
    assert first is not None
    return [("The model", str(bundle.fit)), ("The small detector", str(first.spec.input.fit))]


def _table(bundle: Bundle) -> Table:
    title = f"{printable(bundle.name)}: a pair, {len(bundle.class_names)} classes"
    table = Table(title, "file", "batch", "precision", "box error", "score error", box=None, pad_edge=False)
    for name, stage in bundle.stages.items():
        if name != OWN:
            table.add_row(*_row(bundle, name, stage))
    return table


def _row(bundle: Bundle, name: StageName, stage: Stage) -> tuple[str, ...]:
    from dyndet_builder.pairing.classes import LEFT_OUT

    assert stage.detector is not None
    check, left_out = stage.detector.check, stage.detector.classes.count(LEFT_OUT)
    source = stage.detector.source
    file = printable(source.checkpoint, limit=40)
    others = (one.detector.source for one in bundle.stages.values() if one is not stage and one.detector is not None)
    if any(one.checkpoint == source.checkpoint and one.sha256 != source.sha256 for one in others):
        file += f", SHA-256 {source.sha256[:8]}"
    return (
        name,
        file if not left_out else f"{file} ({left_out} classes left out)",
        "1" if stage.batch == "one" else "any",
        bundle.precision_of(name),
        f"{check.box_px:.2g} px",
        f"{check.score:.2g}",
    )
