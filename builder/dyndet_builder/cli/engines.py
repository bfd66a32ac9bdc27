"""`dyndet engines`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.releases import release_given, release_options
from dyndet_builder.cli.targeting import Numbers
from dyndet_builder.engines.options import HARDWARE_COMPATIBILITIES, MOST_IN_BATCH, EngineOptions
from dyndet_builder.engines.record import Engines
from dyndet_builder.pins import Release
from dyndet_builder.quoting import command as command_line
from dyndet_client.cli.terminal import Console

_DEFAULTS = EngineOptions()


@click.command("engines")
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Folder of engines.  [default: engines beside BUNDLE]"
)
@click.option(
    "--script",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Build nothing; write a script that builds inside NVIDIA's image.  [default without TensorRT: OUTPUT.sh]",
)
@click.option("--repository", type=click.Path(path_type=Path), help="Use the batch sizes of this rendered repository.")
@click.option("--model", help="With --repository: name of the detector, if it holds several.")
@click.option(
    "--max-batch",
    type=click.IntRange(1, MOST_IN_BATCH),
    default=_DEFAULTS.max_batch,
    show_default=True,
    help="Most images per run.",
)
@click.option("--preferred-batches", type=Numbers(int), default=(), help="Tune for the largest of these, such as 4,8.")
@click.option("--workspace-mib", type=int, help="Most memory for one layer.  [default: all]")
@click.option("--optimization-level", type=int, help="0 (fast build) to 5 (fast engine).")
@click.option(
    "--hardware-compatibility",
    type=click.Choice(HARDWARE_COMPATIBILITIES),
    default=_DEFAULTS.hardware_compatibility,
    show_default=True,
    help="Other GPUs that the engines run on; slower.",
)
@click.option(
    "--version-compatible", is_flag=True, help="Engines also run with later releases of the same major version."
)
@click.option("--timing-cache", type=click.Path(dir_okay=False, path_type=Path), help="[default: the one in OUTPUT]")
@click.option(
    "--builder",
    type=click.Choice(("tensorrt", "tensorrt-rtx")),
    default="tensorrt",
    show_default=True,
    help="tensorrt-rtx shows on any machine that NVIDIA's builder accepts the graphs; Triton cannot run its engines.",
)
@click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    help="Build ahead of time for these GPUs, such as 8.6 (repeatable; only for tensorrt-rtx).",
)
@release_options(of="the image that a script builds in")
@click.option("--json", "as_json", is_flag=True, help="Print engines.json instead of a table.")
def command(
    bundle: Path,
    output: Path | None,
    script: Path | None,
    repository: Path | None,
    model: str | None,
    max_batch: int,
    preferred_batches: tuple[int, ...],
    timing_cache: Path | None,
    builder: str,
    triton_version: str | None,
    allow_known_holes: bool,
    as_json: bool,
    **given: object,
) -> None:
    """Build a bundle's TensorRT engines, one per stage.

    The precision is that of the graphs (`dyndet export --precision fp16`, `dyndet quantize`); it is checked in the
    engines. If TensorRT or a GPU is missing, the command writes a script that builds them inside NVIDIA's image.

    \b
    Examples:
      dyndet engines build/bundle -o build/engines
      dyndet engines build/bundle --script build_engines.sh --preferred-batches 4,8
      dyndet engines build/bundle -o build/rtx --builder tensorrt-rtx --compute-capability 8.6
    """
    from dyndet_builder.engines.create import engines, tensorrt_here, trtexec_lines
    from dyndet_builder.repository.rendered import read_rendered

    output = output or bundle.parent / "engines"
    if model is not None and repository is None:
        raise click.UsageError("--model needs --repository: it names one of its detectors")
    if repository is not None:
        rendered = read_rendered(repository, model=model).options
        max_batch, preferred_batches = rendered.max_batch, rendered.preferred_batches
    options = EngineOptions(max_batch=max_batch, preferred_batches=preferred_batches, **given)  # type: ignore[arg-type]
    if script is not None or (builder == "tensorrt" and not tensorrt_here()):
        if as_json:
            raise InputError(
                "--json prints the built engines, but nothing can be built here; see `dyndet engines --help`"
            )
        release = release_given(triton_version, allow_known_holes=allow_known_holes)
        _write_script(bundle, output, script or _beside(output), options, release)
        return
    if triton_version is not None:
        raise click.UsageError("--triton-version belongs to a script; engines built here are for the TensorRT here")
    with step_bars() as show:
        record = engines(
            bundle,
            output,
            options,
            builder="tensorrt" if builder == "tensorrt" else "tensorrt_rtx_bindings",
            timing_cache=timing_cache,
            progress=show,
        )
    if as_json:
        click.echo(record.model_dump_json(indent=2))
        return
    console = Console()
    console.print(_table(record))
    if builder == "tensorrt":
        click.echo("The same by hand:\n" + "\n".join(f"  {line}" for line in trtexec_lines(bundle, output, options)))
        words = ["dyndet", "render", bundle, "REPOSITORY", "--backend", "tensorrt", "--gpu", 0, "--engines", output]
        click.echo(f"Wrote {printable(output)}. Next: {command_line(words)}")
    else:
        click.echo(
            f"Wrote {printable(output)}: the builder accepts these graphs. Triton cannot run TensorRT-RTX engines."
        )


def _beside(output: Path) -> Path:
    """OUTPUT.sh; `.` and `..` have their names only in full."""
    whole = output if output.name not in ("", "..") else output.resolve()
    return whole.with_name(f"{whole.name}.sh")


def _write_script(bundle: Path, output: Path, script: Path, options: EngineOptions, release: Release) -> None:
    from dyndet_builder.engines.create import trtexec_lines, write_engines_script

    write_engines_script(bundle, output, script, options, release=release)
    click.echo("The script runs:\n" + "\n".join(f"  {line}" for line in trtexec_lines(bundle, output, options)))
    click.echo(f"Wrote {printable(script)}; its first lines say how to run it inside NVIDIA's image.")


def _table(record: Engines) -> Table:
    from dyndet_builder.engines.precision import share_of

    where = record.gpu.name if record.gpu is not None else f"for {', '.join(record.compute_capabilities)}"
    kind = "TensorRT" if record.builder == "tensorrt" else "TensorRT-RTX"
    title = f"{kind} {record.tensorrt_version}, {where}"
    columns = (title, "MB", "batch", "seconds", "layers", "source")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for name, engine in record.stages.items():
        shares = {"half": engine.half_share, "int8": engine.int8_share}
        precision = engine.precision or record.precision
        shapes = next(iter(engine.profile.values()))
        table.add_row(
            name,
            f"{engine.size_bytes / 1e6:.1f}",
            "1" if shapes.max[0] == 1 else "..".join(str(one[0]) for one in (shapes.min, shapes.opt, shapes.max)),
            f"{engine.build_seconds:.1f}",
            f"{share_of(precision, shares):.0%} {precision}",
            engine.evidence,
        )
    return table
