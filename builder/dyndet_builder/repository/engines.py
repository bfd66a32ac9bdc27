"""Engines for a build: those at hand, those that can be built here, or the script that builds them elsewhere."""

from __future__ import annotations

from pathlib import Path

from dynamicdet.aliases import Progress
from dynamicdet.errors import InputError, MissingExtraError
from dyndet_builder.bundle.manifest import Bundle, read_bundle
from dyndet_builder.engines.create import EngineOptions, engines, tensorrt_here, write_engines_script
from dyndet_builder.engines.record import Engines, read_engines
from dyndet_builder.repository.options import RenderOptions


def engines_for(folder: Path, bundle: Bundle, options: RenderOptions) -> Engines:
    """The engines of a folder. Raises InputError where they are not this bundle's, or cannot serve these options."""
    record = read_engines(folder, bundle)
    if record.builder != "tensorrt":
        raise InputError(f"{folder} holds engines of TensorRT-RTX, which Triton does not run; build them with TensorRT")
    if record.max_batch < options.max_batch:
        raise InputError(
            f"the engines in {folder} take at most {record.max_batch} images, but max_batch is {options.max_batch}; "
            f"build engines for that, or give --max-batch {record.max_batch}"
        )
    return record


def engines_fit(bundle: Path, folder: Path, rendering: RenderOptions) -> bool:
    """Whether a folder holds the engines of this bundle, for this rendering."""
    try:
        engines_for(folder, read_bundle(bundle), rendering)
    except InputError:
        return False
    return True


def provide_engines(bundle: Path, folder: Path, rendering: RenderOptions, progress: Progress) -> None:
    """Leave a bundle's engines in `folder`: those that are there, or new ones.

    Raises MissingExtraError where they cannot be built on this machine: it names the script that was written for the
    one that will serve, after which the same build goes on.
    """
    if engines_fit(bundle, folder, rendering):
        return
    options = EngineOptions(max_batch=rendering.max_batch, preferred_batches=rendering.preferred_batches)
    if tensorrt_here():
        engines(bundle, folder, options, progress=progress)
        return
    script = write_engines_script(bundle, folder, folder.with_name(f"{folder.name}.sh"), options)
    raise MissingExtraError(
        f"TensorRT or a GPU is missing here, so engines have to be built where they will run: {script} does it inside "
        f"NVIDIA's image (its head has the command); put what it makes into {folder} and build again"
    )
