"""The trtexec lines that build a bundle's engines, and a script of them for NVIDIA's image."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import Bundle, Stage, StageName
from dyndet_builder.engines.options import EngineOptions, profile_of
from dyndet_builder.engines.record import Profile
from dyndet_builder.pins import CURRENT, Release
from dyndet_builder.quoting import Quoted, command, mount, shell
from dyndet_builder.templates import TEMPLATES, fill

_TEMPLATES = TEMPLATES / "engines"
_TENSOR = re.compile(r"[A-Za-z0-9_.-]+")


def trtexec_line(name: StageName, stage: Stage, options: EngineOptions, *, bundle: Path, output: Path) -> str:
    """One stage's command, to be run by hand. TensorRT 10 needs --stronglyTyped; TensorRT 11 ignores it."""
    words = _words(name, stage, options, bundle=shell(f"{bundle}/"), output=shell(f"{output}/"))
    return " ".join(["trtexec", "--stronglyTyped", *words])


def plan_name(stage: StageName) -> str:
    """A stage's file in a folder of engines."""
    return f"{stage}.plan"


def engines_script(
    bundle: Bundle, options: EngineOptions, *, folder: Path, output: Path, script: Path, release: Release = CURRENT
) -> str:
    """Text of a bash script that builds all engines, checks their precision and writes `engines.json`.

    `folder` and `output` are the folders of the bundle and the engines on the machine with the GPU, `script` is the
    file for the text; the head of the script names all three, and the image of `release`. Raises InputError for a name
    of a tensor that trtexec cannot take.
    """
    mounts = (
        *mount(folder.resolve(), "/bundle", read_only=True),
        *mount(output.resolve(), "/engines"),
        *mount(script.resolve(), "/build_engines.sh", read_only=True),
    )
    render = ("dyndet", "render", folder.resolve(), "REPOSITORY", "--backend", "tensorrt", "--gpu", "0", "--engines")
    stages = [
        {
            "graph": stage.file,
            "plan": plan_name(name),
            "sha256": stage.sha256,
            "words": _words(name, stage, options, bundle=Quoted('"$bundle/"'), output=Quoted('"$work/"')),
        }
        for name, stage in bundle.stages.items()
    ]
    return fill(
        _TEMPLATES / "build_engines.sh.jinja",
        name=bundle.name,
        precision=bundle.precision,
        image=release.image,
        run=command(["docker", "run", "--rm", "--gpus", "all", *mounts, release.image, "bash", "/build_engines.sh"]),
        render=command([*render, output.resolve()]),
        stages=stages,
        layers=(_TEMPLATES / "layers.py").read_text(),
        described=json.dumps(_described(bundle, options)),
    )


def _words(
    name: StageName, stage: Stage, options: EngineOptions, *, bundle: Quoted, output: Quoted
) -> tuple[Quoted, ...]:
    """Words for a shell; `bundle` and `output` are the folders, as they stand there with a slash at their ends."""
    profile = profile_of(stage, options)
    plan = plan_name(name)
    files = (
        ("onnx", bundle, stage.file),
        ("saveEngine", output, plan),
        ("timingCacheFile", output, "timing.cache"),
        ("exportLayerInfo", output, f"{plan}.layers.json"),
    )
    shapes = [f"--{which}Shapes={_shapes(profile, which)}" for which in ("min", "opt", "max")]
    words = [
        *(shapes if stage.batch == "dynamic" else ()),  # trtexec takes no shapes for a graph without a free dimension
        "--profilingVerbosity=detailed",
        "--skipInference",
    ]
    if options.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.hardware_compatibility != "none":
        level = {"ampere+": "ampere+", "same-compute-capability": "sameComputeCapability"}
        words.append(f"--hardwareCompatibilityLevel={level[options.hardware_compatibility]}")
    if options.version_compatible:
        words.append("--versionCompatible")
    return (*(Quoted(f"--{option}={folder}{shell(file)}") for option, folder, file in files), *map(shell, words))


def _shapes(profile: dict[str, Profile], which: str) -> str:
    for name in profile:
        if not _TENSOR.fullmatch(name):
            raise InputError(f"trtexec cannot name the tensor {name!r}; use letters, digits, '_', '.' and '-'")
    return ",".join(f"{name}:{'x'.join(map(str, getattr(shapes, which)))}" for name, shapes in profile.items())


def _described(bundle: Bundle, options: EngineOptions) -> dict[str, Any]:
    """What is known about the engines before they are built; `layers.record` adds the rest."""
    return {
        "schema_version": 1,
        "bundle": bundle.name,
        "precision": bundle.precision,
        "builder": "tensorrt",
        "hardware_compatibility": options.hardware_compatibility,
        "version_compatible": options.version_compatible,
        "max_batch": options.max_batch,
        "opt_batch": options.opt_batch,
        "stages": {
            name: {
                "file": plan_name(name),
                "graph_sha256": stage.sha256,
                **({} if stage.precision is None else {"precision": stage.precision}),
                "profile": {
                    each: shapes.model_dump(mode="json") for each, shapes in profile_of(stage, options).items()
                },
            }
            for name, stage in bundle.stages.items()
        },
    }
