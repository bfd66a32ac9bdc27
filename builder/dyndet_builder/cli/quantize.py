"""`dyndet quantize`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import Bundle
from dyndet_builder.cli.data_options import trust_option
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.defaults import CALIBRATION_IMAGES, COMPARED_IMAGES
from dyndet_builder.quoting import shell
from dyndet_client.cli.terminal import Console


@click.command("quantize")
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of images like those that will be served; preferably not the evaluation images.",
)
@click.option("--data", type=click.Path(path_type=Path), help="COCO data set to measure the AP cost on.")
@trust_option
@click.option(
    "--calibration-images", type=int, default=CALIBRATION_IMAGES, show_default=True, help="Images that set the ranges."
)
@click.option(
    "--compared-images",
    type=int,
    default=COMPARED_IMAGES,
    show_default=True,
    help="Other images, for the comparison with fp32.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the new bundle.json instead of a table.")
def command(
    bundle: Path,
    output: Path,
    images: Path,
    data: Path | None,
    trust_pictures: bool,
    calibration_images: int,
    compared_images: int,
    as_json: bool,
) -> None:
    """Make an int8 bundle from an fp32 bundle, and measure the cost.

    Convolutions get explicit Q/DQ pairs. The router, decoding and suppression stay in fp32. The difficulties still
    change, because the router reads what int8 layers compute: calibrate the thresholds again.

    \b
    Example:
      dyndet quantize build/bundle build/int8 --images photos --data val
    """
    from dyndet_builder.quantization.quantize import quantize

    with step_bars() as show:
        result = quantize(
            bundle,
            output,
            images=images,
            data=data,
            trust_pictures=trust_pictures,
            calibration_images=calibration_images,
            compared_images=compared_images,
            progress=show,
        )
    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return
    console = Console()
    console.print(_table(result))
    console.print(
        f"Wrote {printable(output)}. Next: dyndet engines {shell(output)}, or dyndet render {shell(output)} REPOSITORY",
        markup=False,
        soft_wrap=True,
    )


def _table(result: Bundle) -> Table:
    account, parity = result.quantization, result.parity
    assert account is not None
    assert parity is not None
    table = Table(f"int8, {account.calibration_images} images for calibration", "", box=None, pad_edge=False)
    table.add_row("convolutions in int8", f"{account.quantized} of {account.convolutions}")
    for what, old, new in (
        ("AP", account.ap_before, account.ap_after),
        ("mask AP", account.mask_ap_before, account.mask_ap_after),
    ):
        for route in ("easy", "hard") if old is not None and new is not None else ():
            before, after = getattr(old, route), getattr(new, route)
            table.add_row(f"{what}, {route} route", f"{before:.2f} -> {after:.2f} ({after - before:+.2f})")
    table.add_row(f"compared on {parity.images} other images", "")
    table.add_row("  boxes moved, pixels", f"median {account.box_px_median:.2f}, largest {parity.box_px:.1f}")
    table.add_row("  score, largest difference", f"{parity.score:.3f}")
    table.add_row(f"  detections from score {account.from_score} without a match", f"{account.unmatched_share:.1%}")
    table.add_row("  difficulty, largest difference", f"{parity.difficulty:.3f}")
    table.add_row("  routes that flip at the deciles", f"{parity.route_flip_share:.1%}")
    return table
