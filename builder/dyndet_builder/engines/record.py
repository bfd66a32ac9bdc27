"""`engines.json`: the engines in a folder and what they are bound to; checks whether a machine can run them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.records import (
    Count,
    FileName,
    Label,
    Name,
    NotNegative,
    Ordinal,
    Record,
    Sha256,
    Share,
    Version,
    check_regular,
    inside,
    read_record,
)
from dynamicdet.text import printable
from dyndet_bench.measuring.machine import query_gpus
from dyndet_builder.bundle.manifest import OWN, PAIR_STAGES, STAGES, Bundle, Precision, StageName, file_sha256
from dyndet_builder.pins import RELEASES

FILE_NAME = "engines.json"
PLAN = "model.plan"
HardwareCompatibility = Literal["none", "ampere+", "same-compute-capability"]
Builder = Literal["tensorrt", "tensorrt_rtx_bindings"]

VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
"""flag with which Triton accepts engines from another TensorRT version than its own"""

_TENSORRT = {key: release.tensorrt for release in RELEASES.values() for key in (release.name, release.server)}
"""TensorRT inside Triton's images, by the image's release and the server's version"""

_ADVICE = "build the engines again with `dyndet engines`"
_LARGEST = 4 << 20
_LARGEST_PLAN = 64 << 30

Capability = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$")]
Shape = Annotated[tuple[Ordinal, ...], Field(min_length=1, max_length=8)]


class Gpu(Record):
    """A GPU as nvidia-smi names it."""

    name: Label
    compute_capability: Capability


class Profile(Record):
    """Shapes of one input that an engine takes, batch included."""

    min: Shape
    opt: Shape
    max: Shape


class Engine(Record):
    """One stage's plan."""

    file: FileName
    sha256: Sha256
    graph_sha256: Sha256 = Field(description="hash of the ONNX file from which it was built")
    size_bytes: Count
    build_seconds: NotNegative
    profile: Annotated[dict[Name, Profile], Field(max_length=64)] = Field(description="by input")
    half_share: Share = Field(description="share of the layers with weights that compute in half precision")
    int8_share: Share
    evidence: Literal["engine inspector", "typed network"] = Field(description="source of the shares")
    precision: Precision | None = Field(default=None, description="in a pair, whose graphs can differ in it")


class Engines(Record):
    """Contents of `engines.json`."""

    schema_version: Literal[1] = 1
    bundle: Name = Field(description="name of the bundle")
    precision: Precision
    builder: Builder
    tensorrt_version: Version
    gpu: Gpu | None = Field(description="the GPU that built the plans; None if they were built ahead of time")
    compute_capabilities: Annotated[tuple[Capability, ...], Field(max_length=100)] = Field(
        default=(), description="for plans built ahead of time"
    )
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    max_batch: Ordinal
    opt_batch: Ordinal
    stages: dict[StageName, Engine]

    @model_validator(mode="after")
    def _check_stages(self) -> Engines:
        wanted = STAGES if "backbone1" in self.stages else PAIR_STAGES
        for stage in wanted:
            if stage not in self.stages:
                raise ValueError(f"it lacks stage {stage!r}")
        if foreign := set(self.stages) - {*wanted, *([OWN] if wanted is PAIR_STAGES else [])}:
            raise ValueError(f"it has the stage {min(foreign)!r} beside {', '.join(wanted)}")
        if len({engine.file for engine in self.stages.values()}) != len(self.stages):
            raise ValueError("two stages have the same file")
        return self


def read_engines(folder: Path, bundle: Bundle | None = None) -> Engines:
    """Read a folder of engines, and check the hash of each plan and, with `bundle`, of the graph that it came from.

    Raises InputError if it is not a folder of engines, or a plan is missing, was changed, or is of another bundle.
    """
    engines = read_engines_record(folder)
    if bundle is not None and set(bundle.stages) != set(engines.stages):
        raise InputError(
            f"the engines in {printable(folder)} are those of {', '.join(engines.stages)}, but the bundle has "
            f"{', '.join(bundle.stages)}; build the engines from this bundle"
        )
    for stage, engine in engines.stages.items():
        plan = inside(folder, engine.file)
        if plan.exists():
            check_regular(plan, advice=_ADVICE, largest=_LARGEST_PLAN)
        if not plan.exists() or plan.stat().st_size != engine.size_bytes or file_sha256(plan) != engine.sha256:
            raise InputError(f"{printable(plan)} is missing or not the engine in {FILE_NAME}; build the engines again")
        if bundle is not None and engine.graph_sha256 != bundle.stages[stage].sha256:
            raise InputError(
                f"{printable(plan)} was built from another bundle's {stage}; build the engines from this bundle"
            )
    return engines


def read_engines_record(folder: Path) -> Engines:
    """Read only `engines.json`. Raises InputError if it is missing or damaged."""
    path = folder / FILE_NAME
    if not path.exists():
        raise InputError(f"{printable(folder)} holds no engines (it has no {FILE_NAME}); `dyndet engines` builds them")
    return read_record(
        path, Engines, described="a record of engines of schema version 1", advice=_ADVICE, largest=_LARGEST
    )


@dataclass(frozen=True, kw_only=True)
class Target:
    """The machine that will run the engines. None: not known, so not checked."""

    gpus: tuple[Gpu, ...] | None
    tensorrt: str | None
    name: str
    """for messages, such as `this machine`"""


def engine_folders(repository: Path) -> tuple[Path, ...]:
    """Folders of a repository that hold an `engines.json`: those of detectors, or the top, from older versions."""
    found = (repository / FILE_NAME, *sorted(repository.glob(f"*/{FILE_NAME}")))
    return tuple(path.parent for path in found if path.is_file())


def check_engines(repository: Path, target: Target) -> None:
    """Raise InputError, in one sentence, if a repository's engines are missing or cannot run on a target.

    Nothing is known about plans without `engines.json`, which come from elsewhere.
    """
    check_plans(sorted(repository.glob("*")))
    for folder in engine_folders(repository):
        check_record(folder, target)


def check_record(folder: Path, target: Target) -> None:
    """Raise InputError, in one sentence, if the engines that a folder's `engines.json` describes cannot run there."""
    engines = read_engines_record(folder)
    if target.tensorrt is not None and not _version_fits(engines, target.tensorrt):
        accepted = "this major version" if engines.version_compatible else "this version"
        raise InputError(
            f"the engines in {folder} were built with TensorRT {engines.tensorrt_version} and run only with "
            f"{accepted}, but {target.name} has {target.tensorrt}; build them there with `dyndet engines`"
        )
    if target.gpus is None or any(_gpu_fits(engines, gpu) for gpu in target.gpus):
        return
    found = " and ".join(_gpu_text(gpu) for gpu in target.gpus) or "no GPU"
    raise InputError(
        f"the engines in {folder} run only on {_runs_on(engines)}, but {target.name} has {found}; build them there "
        "with `dyndet engines`"
    )


def check_plans(models: Iterable[Path]) -> None:
    """Raise InputError if a model, given by its folder, waits for an engine that nobody put there."""
    for folder in models:
        note = folder / "1" / "PUT_MODEL_PLAN_HERE.txt"
        if note.is_file() and not (note.parent / PLAN).is_file():
            raise InputError(
                f"{note.parent} has no engine {PLAN}; build engines with `dyndet engines` and render with --engines"
            )


def check_engines_here(repository: Path, image: str | None = None) -> None:
    """`check_engines` for this machine, and for a Triton image if one will serve.

    With an image, a machine without a GPU is not the one that will serve, so its GPUs are not checked.
    """
    if not engine_folders(repository):
        check_plans(sorted(repository.glob("*")))
        return
    gpus = gpus_here()
    if image is None:
        check_engines(repository, Target(gpus=gpus, tensorrt=None, name="this machine"))
        return
    release = image.rpartition(":")[2].partition("-")[0]
    name = f"this machine with {image}" if gpus else image
    check_engines(repository, Target(gpus=gpus or None, tensorrt=tensorrt_of(release), name=name))


def check_engines_there(repository: Path, url: str, triton_version: str) -> None:
    """`check_engines` for a running server, which reports its version but not its GPUs."""
    check_engines(repository, Target(gpus=None, tensorrt=tensorrt_of(triton_version), name=f"the server at {url}"))


def tensorrt_of(version: str) -> str | None:
    """TensorRT in a release of Triton's image (`24.10`), or with a version of the server (`2.51.0`), if known."""
    return _TENSORRT.get(version)


def version_arguments(engines: Iterable[Engines]) -> tuple[str, ...]:
    """The flag that Triton needs to run engines from another TensorRT version than its own."""
    return (VERSION_COMPATIBLE,) if any(one.version_compatible for one in engines) else ()


def _version_fits(engines: Engines, found: str) -> bool:
    own, other = engines.tensorrt_version.split("."), found.split(".")
    count = 1 if engines.version_compatible else min(len(own), len(other))
    return own[:count] == other[:count]


def _gpu_fits(engines: Engines, gpu: Gpu) -> bool:
    if engines.hardware_compatibility == "ampere+":
        return _number(gpu.compute_capability) >= (8, 0)
    if engines.gpu is None:
        return gpu.compute_capability in engines.compute_capabilities
    if engines.hardware_compatibility == "same-compute-capability":
        return gpu.compute_capability == engines.gpu.compute_capability
    return gpu == engines.gpu


def _runs_on(engines: Engines) -> str:
    if engines.hardware_compatibility == "ampere+":
        return "GPUs of compute capability 8.0 and later"
    if engines.gpu is None or engines.hardware_compatibility == "same-compute-capability":
        known = engines.compute_capabilities if engines.gpu is None else (engines.gpu.compute_capability,)
        return f"GPUs of compute capability {' or '.join(known)}"
    return _gpu_text(engines.gpu)


def _gpu_text(gpu: Gpu) -> str:
    return f"{gpu.name} (compute capability {gpu.compute_capability})"


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def gpus_here() -> tuple[Gpu, ...]:
    """This machine's GPUs, as nvidia-smi lists them."""
    try:
        gpus = query_gpus("name", "compute_cap")
    except MissingExtraError:
        return ()
    return tuple(Gpu(name=name, compute_capability=capability) for name, capability in gpus)
