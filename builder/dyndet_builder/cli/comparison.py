"""Prints how routers compare."""

from __future__ import annotations

from rich.table import Table

from dynamicdet.router.compare import Comparison
from dynamicdet.router.kept_gain import HARD_SHARES
from dynamicdet.text import printable
from dyndet_client.cli.terminal import Console


def print_comparison(comparison: Comparison) -> None:
    """One line for each way to choose the hard images."""
    console = Console(soft_wrap=True)
    console.print(
        f"\n{printable(comparison.data)}, {comparison.images} images: AP all easy {comparison.easy_ap:.1f}, all hard "
        f"{comparison.hard_ap:.1f}"
    )
    if not comparison.rows:
        console.print("detector 2 gains next to nothing on these images, so there is nothing to compare")
        return
    console.print("share of the gain that is kept, with standard error, and mean AP over all hard shares:\n")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("hard images chosen by")
    for share in HARD_SHARES:
        table.add_column(f"kept at\n{share:.0%} hard", justify="right")
    table.add_column("mean\nAP", justify="right")
    for row in comparison.rows:
        kept = (f"{100 * row.kept.at[share]:.0f} +- {100 * row.kept.error[share]:.0f} %" for share in HARD_SHARES)
        table.add_row(row.name, *kept, f"{row.mean_ap:.2f}")
    console.print(table)
