"""Builds a bundle's TensorRT engines, one per stage, in the graphs' own precision, and checks it afterwards."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any, cast

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.files import check_creatable, whole_file, whole_folder
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import Bundle, StageName, read_bundle
from dyndet_builder.engines.options import EngineOptions, profile_of
from dyndet_builder.engines.precision import check_bundle_precision, check_precision
from dyndet_builder.engines.record import FILE_NAME, Builder, Engine, Engines, gpus_here
from dyndet_builder.engines.script import engines_script, plan_name, trtexec_line
from dyndet_builder.engines.tensorrt import Built, build_stage
from dyndet_builder.pins import CURRENT, Release

__all__ = ["EngineOptions", "engines", "tensorrt_here", "trtexec_lines", "write_engines_script"]


TIMING_CACHE = "timing.cache"


def tensorrt_here() -> bool:
    """Whether this machine has TensorRT's Python API and a GPU."""
    return importlib.util.find_spec("tensorrt") is not None and bool(gpus_here())


def engines(
    bundle: Path,
    output: Path,
    options: EngineOptions | None = None,
    *,
    builder: Builder = "tensorrt",
    timing_cache: Path | None = None,
    progress: Progress = silent,
) -> Engines:
    """Build the engines of a bundle into the folder `output`, which appears whole or not at all.

    `builder` is the Python module of TensorRT or of TensorRT-RTX. TensorRT-RTX builds ahead of time for the compute
    capabilities in `options`, also without a GPU; Triton does not run its engines. `timing_cache` is a file that
    TensorRT reads and extends; by default the one in `output`.

    Raises InputError for bad options and bundles, MissingExtraError if TensorRT or a GPU that it needs is missing,
    ParityError if a graph or an engine does not have the precision that the bundle claims.
    """
    options = options or EngineOptions()
    described = _checked(bundle)
    trt, gpus = _module(builder), gpus_here()
    if not gpus and not options.compute_capabilities:
        raise MissingExtraError(
            "building engines needs an NVIDIA GPU, but nvidia-smi shows none here; write a script with "
            "`dyndet engines --script` and run it on the machine that will serve"
        )
    cache_file = timing_cache or output / TIMING_CACHE
    cache = cache_file.read_bytes() if cache_file.is_file() else b""
    built: dict[StageName, Engine] = {}
    with whole_folder(output, marker=FILE_NAME) as folder:
        for name, stage in described.stages.items():
            step = f"build {name}"
            result = build_stage(
                trt,
                bundle / stage.file,
                stage,
                options,
                timing_cache=cache,
                inspect=bool(gpus),
                report=partial(progress, step),
            )
            progress(step, 1, 1)
            check_precision(result.shares, described.precision_of(name), f"the engine of {name}")
            cache = result.timing_cache
            (folder / plan_name(name)).write_bytes(result.plan)
            built[name] = _record(described, name, result, options)
        record = Engines(
            bundle=described.name,
            precision=described.precision,
            builder=builder,
            tensorrt_version=str(trt.__version__),
            gpu=None if options.compute_capabilities else gpus[0],
            compute_capabilities=options.compute_capabilities,
            hardware_compatibility=options.hardware_compatibility,
            version_compatible=options.version_compatible,
            max_batch=options.max_batch,
            opt_batch=options.opt_batch,
            stages=built,
        )
        (folder / FILE_NAME).write_text(record.model_dump_json(indent=2) + "\n")
        if cache:
            (folder / TIMING_CACHE).write_bytes(cache)
    if cache and timing_cache is not None:
        with whole_file(timing_cache, durable=False) as temporary:
            temporary.write_bytes(cache)
    return record


def write_engines_script(
    bundle: Path, output: Path, script: Path, options: EngineOptions | None = None, *, release: Release = CURRENT
) -> Path:
    """Write a bash script that builds the engines with trtexec inside NVIDIA's image, and return its path.

    Raises InputError for a bad bundle, ParityError if a graph does not have the precision that the bundle claims.
    """
    described = _checked(bundle)
    if options is not None and options.compute_capabilities:
        raise InputError("trtexec builds only for the GPU of its own machine; leave out the compute capabilities")
    options = options or EngineOptions()
    text = engines_script(described, options, folder=bundle, output=output, script=script, release=release)
    check_creatable(output)
    check_creatable(script.parent)
    script.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(script, durable=False) as temporary:
        temporary.write_text(text)
        mode = temporary.stat().st_mode
        temporary.chmod(mode | (mode & 0o444) >> 2)  # who may read it may run it
    return script


def trtexec_lines(bundle: Path, output: Path, options: EngineOptions | None = None) -> tuple[str, ...]:
    """The commands that build the same engines by hand, one per stage."""
    chosen = options or EngineOptions()
    stages = _checked(bundle).stages.items()
    return tuple(trtexec_line(name, stage, chosen, bundle=bundle, output=output) for name, stage in stages)


def _checked(bundle: Path) -> Bundle:
    described = read_bundle(bundle)
    if described.two_stage is not None and described.two_stage.target != "tensorrt":
        raise InputError(
            f"the graphs in {printable(bundle)} have RoiAlign, for which TensorRT needs a plugin; export the "
            "checkpoint again with `dyndet export --target tensorrt`"
        )
    check_bundle_precision(bundle, described)
    return described


def _module(builder: Builder) -> Any:
    try:
        trt = importlib.import_module(builder)
    except ImportError as error:
        raise MissingExtraError(
            f"the Python module {builder} cannot be used here ({error}); `dyndet engines --script` writes a script "
            "that builds the engines inside NVIDIA's image"
        ) from error
    if builder == "tensorrt" and int(str(trt.__version__).split(".")[0]) < 10:
        raise InputError(f"TensorRT {trt.__version__} is too old; dyndet needs 10 or later")
    return trt


def _record(described: Bundle, name: StageName, result: Built, options: EngineOptions) -> Engine:
    return Engine(
        file=plan_name(name),
        sha256=hashlib.sha256(result.plan).hexdigest(),
        graph_sha256=described.stages[name].sha256,
        size_bytes=len(result.plan),
        build_seconds=round(result.seconds, 2),
        profile=profile_of(described.stages[name], options),
        half_share=result.shares["half"],
        int8_share=result.shares["int8"],
        evidence=cast(Any, "engine inspector" if result.inspected else "typed network"),
        precision=described.stages[name].precision,
    )
