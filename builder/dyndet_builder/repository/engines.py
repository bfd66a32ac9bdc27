"""Engines for a build: existing ones, new ones built here, or a script that builds them on another machine."""

from __future__ import annotations

from pathlib import Path

from dynamicdet.aliases import Progress
from dynamicdet.errors import InputError, MissingExtraError
from dyndet_builder.bundle.manifest import Bundle, read_bundle
from dyndet_builder.engines.create import EngineOptions, engines, tensorrt_here, write_engines_script
from dyndet_builder.engines.record import Engines, read_engines
from dyndet_builder.repository.options import RenderOptions


def engines_for(folder: Path, bundle: Bundle, options: RenderOptions) -> Engines:
    """The engines of a folder. Raises InputError if they are not this bundle's, or cannot serve these options."""
    record = read_engines(folder, bundle)
    if record.builder != "tensorrt":
        raise InputError(f"{folder} holds engines of TensorRT-RTX, which Triton cannot run; build them with TensorRT")
    if record.max_batch < options.max_batch:
        raise InputError(
            f"the engines in {folder} take at most {record.max_batch} images, but max_batch is {options.max_batch}; "
            f"build engines for that batch, or give --max-batch {record.max_batch}"
        )
    return record


def engines_fit(bundle: Path, folder: Path, rendering: RenderOptions) -> bool:
    """Whether a folder holds engines of this bundle that fit this rendering."""
    try:
        engines_for(folder, read_bundle(bundle), rendering)
    except InputError:
        return False
    return True


def provide_engines(bundle: Path, folder: Path, rendering: RenderOptions, progress: Progress) -> None:
    """Make sure that `folder` holds a bundle's engines: use those that are there, or build new ones.

    Raises MissingExtraError if this machine cannot build them. The error names the script that builds them on the
    machine that will serve. After that, the same build can continue.
    """
    if engines_fit(bundle, folder, rendering):
        return
    options = EngineOptions(max_batch=rendering.max_batch, preferred_batches=rendering.preferred_batches)
    if tensorrt_here():
        engines(bundle, folder, options, progress=progress)
        return
    script = write_engines_script(bundle, folder, folder.with_name(f"{folder.name}.sh"), options)
    raise MissingExtraError(
        f"TensorRT or a GPU is missing here, so the engines must be built on the machine that will run them: {script} "
        f"does this inside NVIDIA's image (its first lines show the command); put its output into {folder} and build "
        "again"
    )
