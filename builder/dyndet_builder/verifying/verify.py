"""What should be known about a detector on this machine before traffic comes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.errors import DyndetError, InputError, MissingExtraError
from dynamicdet.files import scratch_folder
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.measuring.machine import circumstances
from dyndet_bench.measuring.workload import read_letterboxed
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import OWN, Bundle, StageName, file_sha256, read_bundle
from dyndet_builder.bundle.runner import StageRunner
from dyndet_builder.engines.options import MOST_IN_BATCH
from dyndet_builder.engines.record import read_engines
from dyndet_builder.engines.script import plan_name
from dyndet_builder.repository.rendered import Rendered, read_rendered
from dyndet_builder.verifying.comparing import agreement, checks_of
from dyndet_builder.verifying.machine import parts, providers
from dyndet_builder.verifying.record import Check, VerifyRecord, Way
from dyndet_builder.verifying.served import Asked, Found, ask_server, serve_bundle, serve_repository
from dyndet_builder.verifying.stages import DeviceStages, EngineStages, OnnxRuntimeStages
from dyndet_builder.verifying.timing import memory_mib, route_times, sizes_of, stage_times
from dyndet_client.address import parse_addresses

CPU = "CPU"
BATCHES = (1, 2, 4, 8)
_FEW = 5
"""runs of the CPU beside a GPU, where it is only the reference"""
_DEVICES = {"CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider"}


@dataclass(frozen=True, kw_only=True)
class _Target:
    """A bundle, or what a repository was rendered from."""

    bundle: Bundle
    graphs: Mapping[StageName, Path]
    digest: str
    thresholds: Mapping[str, float]
    rendered: Rendered | None


def verify(
    target: Path,
    *,
    images: Path,
    model: str | None = None,
    gpu: int | None = None,
    engines: Path | None = None,
    without: Collection[str] = (),
    url: str | None = None,
    metrics_url: str | None = None,
    serve: bool = True,
    batches: Sequence[int] = BATCHES,
    max_images: int = 36,
    repeats: int = 30,
    rounds: int = 3,
    progress: Progress = silent,
) -> VerifyRecord:
    """Run a bundle's or repository's stages in every way that this machine has, compare, time, and serve.

    `images` is a folder; at most `max_images` of them are used. The reference is ONNX Runtime on the CPU. With `gpu`,
    the stages also run with ONNX Runtime's CUDA and TensorRT providers there, and with the TensorRT engines in the
    folder `engines` (of a repository: its own), `without` some of these providers. The CPU is then timed only at its
    smallest batch size and in few runs. Stages and routes are timed at the batch sizes `batches`, as the median
    of `repeats` runs. With `serve`, the embedded server serves the detector, or the server at `url` is asked, in so
    many `rounds`. What cannot be done here is in the record's `skipped`; what does not agree is in its `failed`.

    Raises InputError for a target that is neither a bundle nor a repository, and for images that cannot be used.
    """
    if max_images < 1 or repeats < 1 or rounds < 1:
        raise InputError("numbers of images, repeats and rounds must be at least 1")
    for size in batches or (0,):
        if not 1 <= size <= MOST_IN_BATCH:
            raise InputError(f"a batch size must be a whole number from 1 to {MOST_IN_BATCH}, not {size}")
    read = _read(target, model)
    if url is not None and read.rendered is None:
        raise InputError("--url needs the repository that the server serves, not a bundle")
    if url is not None:
        parse_addresses(url)
    bundle = read.bundle
    fitted = read_letterboxed(spread(pictures_in(images), max_images), bundle.fit)
    skipped: list[str] = []
    checks: list[Check] = []
    reference = StageRunner(dict(read.graphs))
    ways = []
    for name, stages in _ways(read, target, gpu=gpu, engines=engines, without=without, skipped=skipped):
        aside = name == CPU and gpu is not None
        effort = (batches[:1], min(repeats, _FEW)) if aside else (batches, repeats)
        way = _run_way(name, stages, reference, fitted, read, *effort, None if name == CPU else gpu, progress)
        if isinstance(way, Check):
            checks.append(way)
            continue
        ways.append(way)
        if way.agreement is not None:
            checks += checks_of(name, way.agreement, bundle.precision)
    found = Found(routes=[], points=[], checks=[], skipped=[])
    if serve or url is not None:
        on_gpu = gpu is not None if read.rendered is None else bool(read.rendered.gpus)
        asked = Asked(
            bundle=bundle,
            reference=reference,
            pictures=images,
            images=fitted,
            thresholds=read.thresholds,
            graphs=None if on_gpu else {str(name): path for name, path in read.graphs.items()},
            rounds=rounds,
            progress=progress,
        )
        found = _served(target, read, asked, gpu=gpu, url=url, metrics_url=metrics_url)
    else:
        skipped.append("serving: it was not asked for")
    for route in found.routes:
        if route.agreement is not None:
            checks += checks_of(f"served by {route.topology}", route.agreement, bundle.precision)
    return VerifyRecord(
        detector=bundle.name,
        kind="bundle" if read.rendered is None else "repository",
        architecture=bundle.architecture,
        precision=bundle.precision,
        input_size=bundle.input_size,
        bundle_sha256=read.digest,
        machine=parts(),
        ways=tuple(ways),
        features_bytes=_features_bytes(bundle),
        served=tuple(found.routes),
        points=tuple(found.points),
        checks=(*checks, *found.checks),
        skipped=(*skipped, *found.skipped),
        images=len(fitted),
        circumstances=circumstances(),
    )


def _read(target: Path, model: str | None) -> _Target:
    if (target / BUNDLE_FILE).is_file():
        if model is not None:
            raise InputError("a bundle holds one detector; leave out its name")
        bundle = read_bundle(target)
        graphs = {name: target / stage.file for name, stage in bundle.stages.items() if name != OWN}
        digest = file_sha256(target / BUNDLE_FILE)
        return _Target(bundle=bundle, graphs=graphs, digest=digest, thresholds={"0.5": 0.5}, rendered=None)
    rendered = read_rendered(target, model=model)
    graphs = {name: path for name, path in rendered.graphs.items() if name != OWN}  # type: ignore[misc]
    return _Target(
        bundle=rendered.bundle,
        graphs=graphs,
        digest=rendered.bundle_sha256,
        thresholds={name: point.threshold for name, point in rendered.points.points.items()},
        rendered=rendered,
    )


def _ways(
    read: _Target, target: Path, *, gpu: int | None, engines: Path | None, without: Collection[str], skipped: list[str]
) -> list[tuple[str, DeviceStages]]:
    """The ways to run the stages here; what there is not goes to `skipped`."""
    bundle, graphs = read.bundle, read.graphs
    found: list[tuple[str, DeviceStages]] = [(CPU, OnnxRuntimeStages(bundle, graphs, provider="CPUExecutionProvider"))]
    if gpu is None:
        skipped.append("GPU: none was named; --gpu 0 runs the stages there, too")
        return found
    here = providers()
    for name, provider in _DEVICES.items():
        if name in without:
            skipped.append(f"{name}: it was left out")
            continue
        if provider not in here:
            skipped.append(f"{name}: this ONNX Runtime has no {provider}; onnxruntime-gpu has it")
            continue
        options = {"device_id": str(gpu)}
        found.append((name, OnnxRuntimeStages(bundle, graphs, provider=provider, options=options, gpu=gpu)))
    folder = engines if engines is not None or read.rendered is None else _engine_folder(read.rendered)
    if folder is None:
        skipped.append("engines: there are none; --engines FOLDER names those that `dyndet engines` built")
        return found
    try:
        read_engines(folder, bundle)
        plans = {name: folder / plan_name(name) for name in bundle.served}
        found.append(("engines", EngineStages(bundle, plans, gpu=gpu)))
    except MissingExtraError as error:
        skipped.append(f"engines: {error}")
    return found


def _engine_folder(rendered: Rendered) -> Path | None:
    engines = rendered.options.engines
    return engines if engines is not None and engines.is_dir() else None


def _run_way(
    name: str,
    stages: DeviceStages,
    reference: StageRunner,
    images: Sequence[UInt8Array],
    read: _Target,
    batches: Sequence[int],
    repeats: int,
    gpu: int | None,
    progress: Progress,
) -> Way | Check:
    """The measurements of one way; a failed check if it does not run."""
    sizes = sizes_of(stages, batches)
    largest = np.stack([images[index % len(images)] for index in range(max(sizes))])
    memory: dict[str, float] = {}
    try:
        for stage in stages.bundle.served:
            before = memory_mib(gpu)
            stages.load(stage)
            stages.call(stage, stages.inputs_of(stage, largest))
            memory[stage] = max(0.0, memory_mib(gpu) - before)
        return Way(
            name=name,
            agreement=None if name == CPU else agreement(reference, stages, images, read.thresholds),
            stages=stage_times(stages, images, sizes, repeats, progress),
            routes=route_times(stages, images, sizes, repeats, copied=False),
            copied={} if name == CPU else route_times(stages, images, sizes, repeats, copied=True),
            memory_mib=memory,
        )
    except DyndetError as error:
        return Check(name=f"runs, {name}", passed=False, sentence=f"The stages do not run: {error}.")


def _served(
    target: Path, read: _Target, asked: Asked, *, gpu: int | None, url: str | None, metrics_url: str | None
) -> Found:
    nothing = Found(routes=[], points=[], checks=[], skipped=[])
    try:
        if url is not None:
            assert read.rendered is not None  # `verify` has refused it
            return ask_server(url, metrics_url, read.rendered, asked)
        if read.rendered is not None:
            return serve_repository(target, read.rendered, asked)
        with ExitStack() as stack:
            return serve_bundle(target, asked, stack.enter_context(scratch_folder("verify")), gpu=gpu)
    except MissingExtraError as error:
        nothing.skipped.append(f"serving: {str(error).partition('; `')[0]}")
    return nothing


def _features_bytes(bundle: Bundle) -> int:
    later = {tensor.name for stage in bundle.served[1:] for tensor in bundle.stages[stage].inputs}
    sizes = {"uint8": 1, "float16": 2, "float32": 4, "int32": 4}
    return sum(
        sizes[tensor.dtype] * int(np.prod(tensor.shape))
        for tensor in bundle.stages[bundle.first].outputs
        if tensor.name in later
    )
