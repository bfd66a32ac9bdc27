"""The trtexec lines that build a bundle's engines, and a script of them for NVIDIA's image."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from dyndet_builder.bundle.manifest import Bundle, Stage, StageName
from dyndet_builder.engines.options import EngineOptions, profile_of
from dyndet_builder.engines.record import Profile
from dyndet_builder.pins import CURRENT, Release
from dyndet_builder.templates import TEMPLATES, fill

_TEMPLATES = TEMPLATES / "engines"


def trtexec_line(stage: Stage, options: EngineOptions, *, bundle: Path, output: Path) -> str:
    """One stage's command, to be run by hand. TensorRT 10 needs --stronglyTyped; TensorRT 11 ignores it."""
    words = _words(stage, options, bundle=str(bundle), output=str(output))
    return shlex.join(["trtexec", "--stronglyTyped", *words])


def plan_name(stage: StageName) -> str:
    """A stage's file in a folder of engines."""
    return f"{stage}.plan"


def engines_script(
    bundle: Bundle, options: EngineOptions, *, folder: Path, output: Path, script: Path, release: Release = CURRENT
) -> str:
    """Text of a bash script that builds all engines, checks their precision and writes `engines.json`.

    `folder` and `output` are the folders of the bundle and the engines on the machine with the GPU, `script` is the
    file for the text; the head of the script names all three, and the image of `release`.
    """
    stages = [
        {
            "graph": stage.file,
            "plan": plan_name(name),
            "sha256": stage.sha256,
            "words": [_in_shell(word) for word in _words(stage, options, bundle="$bundle", output="$work")],
        }
        for name, stage in bundle.stages.items()
    ]
    return fill(
        _TEMPLATES / "build_engines.sh.jinja",
        name=bundle.name,
        precision=bundle.precision,
        image=release.image,
        bundle_path=shlex.quote(str(folder.resolve())),
        output_path=shlex.quote(str(output.resolve())),
        script_path=shlex.quote(str(script.resolve())),
        stages=stages,
        layers=(_TEMPLATES / "layers.py").read_text(),
        described=repr(json.dumps(_described(bundle, options))),
    )


def _words(stage: Stage, options: EngineOptions, *, bundle: str, output: str) -> list[str]:
    profile = profile_of(stage, options)
    plan = f"{output}/{Path(stage.file).stem}.plan"
    words = [
        f"--onnx={bundle}/{stage.file}",
        f"--saveEngine={plan}",
        f"--minShapes={_shapes(profile, 'min')}",
        f"--optShapes={_shapes(profile, 'opt')}",
        f"--maxShapes={_shapes(profile, 'max')}",
        f"--timingCacheFile={output}/timing.cache",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={plan}.layers.json",
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
    return words


def _in_shell(word: str) -> str:
    """A word in which the shell replaces `$bundle` and `$work`."""
    return f'"{word}"' if "$" in word else shlex.quote(word)


def _shapes(profile: dict[str, Profile], which: str) -> str:
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
                "profile": {
                    each: shapes.model_dump(mode="json") for each, shapes in profile_of(stage, options).items()
                },
            }
            for name, stage in bundle.stages.items()
        },
    }
