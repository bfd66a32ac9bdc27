"""`dyndet bench frontier`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamicdet.files import check_creatable, whole_file
from dynamicdet.text import printable
from dyndet_bench.frontier.record import FILE_NAME, HARD_SHARES
from dyndet_builder.cli.bench.plot import promised_milliseconds
from dyndet_builder.cli.data_options import images_option
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.demo_assets import demo_picture
from dyndet_builder.repository.config import MEASURED_TOPOLOGIES, Topology

PLOT_NAME, TABLE_NAME = "frontier.png", "frontier.md"


@click.command("frontier")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--static",
    "statics",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Checkpoint of a static detector, or the folder that `dyndet export` made of it (repeatable).",
)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="COCO data set that trained none of them.")
@images_option
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    required=True,
    help=f"Folder for {FILE_NAME}, the table and the plot.",
)
@click.option("--topology", type=click.Choice(MEASURED_TOPOLOGIES), default="fused", show_default=True)
@click.option(
    "--hard-share",
    "hard_shares",
    type=click.FloatRange(0, 1),
    multiple=True,
    help=f"Share of hard images, 0 to 1 (repeatable); 0 and 1 are always measured.  [default: "
    f"{', '.join(f'{share:g}' for share in HARD_SHARES)}]",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--max-images", type=click.IntRange(2), default=100, show_default=True, help="Images to time per round.")
@click.option("--promise", help="Promised mean latency to mark in the plot, such as 12ms.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    bundle: Path,
    statics: tuple[Path, ...],
    data: Path,
    images: Path | None,
    output: Path,
    topology: Topology,
    hard_shares: tuple[float, ...],
    rounds: int,
    max_images: int,
    promise: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure a dynamic detector beside static ones.

    It answers the question: why not simply one detector of the right size?

    One embedded server serves BUNDLE and every static detector. Each image goes through all of them in turn, one
    request at a time, in rounds. AP is that of the server's answers. The result is how much faster the dynamic detector
    is at equal AP, and how much AP it gains at equal latency, with intervals. The line through the static detectors
    stands for those of sizes in between.

    \b
    Example:
      dyndet bench frontier build/demo/bundle --static s.safetensors --static m.safetensors \\
        --static l.safetensors --data benchmarks/demo/val -o build/frontier
    """
    from dyndet_builder.frontier import measure_frontier
    from dyndet_builder.repository.options import RenderOptions

    promise_ms = promised_milliseconds(promise)
    from dyndet_bench.report.static_plot import write_static_frontier
    from dyndet_bench.report.static_text import frontier_markdown, sentences

    check_creatable(output)
    with step_bars() as show:
        record = measure_frontier(
            bundle,
            statics,
            data=data,
            images=images,
            options=RenderOptions(topology=topology, warmup_image=demo_picture()),
            hard_shares=hard_shares or HARD_SHARES,
            rounds=rounds,
            max_images=max_images,
            promise_ms=promise_ms,
            seed=seed,
            progress=show,
        )
    text = record.model_dump_json(indent=2)
    output.mkdir(parents=True, exist_ok=True)
    files = [output / name for name in (FILE_NAME, TABLE_NAME, PLOT_NAME)]
    for file, content in zip(files, (text + "\n", frontier_markdown(record)), strict=False):
        with whole_file(file, durable=False) as temporary:
            temporary.write_text(content, encoding="utf-8")
    write_static_frontier(record, files[-1])
    if as_json:
        click.echo(text)
        return
    for line in sentences(record):
        click.echo(f"{line}.")
    click.echo(f"Wrote {printable(output)}: {', '.join(file.name for file in files)}.")
