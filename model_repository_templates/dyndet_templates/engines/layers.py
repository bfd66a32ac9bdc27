"""The precision of an engine by its own layers, as TensorRT's engine inspector lists them; and the engines' record.

`dyndet engines` imports this file, and copies its text into the script that runs inside NVIDIA's image. dyndet is not
there, so this file needs only the standard library and Python 3.8.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

DOMINANT = 0.5
"""share of the layers with weights from which an engine counts as half or int8"""

_COMPUTES = re.compile(r"conv|gemm|matmul|matrix", re.IGNORECASE)
_HALF = re.compile(r"\b(half|fp16|bf16|bfloat16)\b", re.IGNORECASE)
_INT8 = re.compile(r"\bint8\b", re.IGNORECASE)


def precision_shares(information: Any) -> dict[str, float] | None:
    """Shares of the layers with weights that compute in `half` and `int8`; None if there are only names of layers.

    `information` is the inspector's JSON as plain data. TensorRT 10 writes a tensor's type into `Format/Datatype`,
    TensorRT 11 into two fields; any field with "type" or "format" in its name is read.
    """
    layers = information.get("Layers", []) if isinstance(information, dict) else information
    texts = [_types(layer) for layer in layers if isinstance(layer, dict) and _computes(layer)]
    if not texts:
        return None
    int8 = [text for text in texts if _INT8.search(text)]
    half = [text for text in texts if _HALF.search(text) and not _INT8.search(text)]
    return {"half": len(half) / len(texts), "int8": len(int8) / len(texts)}


def _computes(layer: dict[str, Any]) -> bool:
    """Whether a layer has weights: a convolution or a matrix product, fused or not."""
    kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"
    return "Weights" in layer or bool(_COMPUTES.search(kind))


def _types(layer: dict[str, Any]) -> str:
    """All types of a layer's inputs, outputs and weights, without its bias (fp32 in an int8 layer)."""
    holders = [*layer.get("Inputs", []), *layer.get("Outputs", []), layer.get("Weights", {})]
    return "; ".join(
        str(value)
        for holder in holders
        if isinstance(holder, dict)
        for key, value in holder.items()
        if "type" in key.lower() or "format" in key.lower()
    )


def precision_error(claimed: str, shares: dict[str, float]) -> str:
    """Why an engine does not have the precision that its bundle claims; empty if it has."""
    found = " and ".join(f"{share:.0%} in {name}" for name, share in shares.items())
    good = {
        "fp32": shares["half"] < DOMINANT and shares["int8"] < DOMINANT,
        "fp16": shares["half"] >= DOMINANT,
        "int8": shares["int8"] >= DOMINANT,
    }[claimed]
    return "" if good else f"the bundle says {claimed}, but its layers with weights compute in other types ({found})"


def version_in(log: str) -> str:
    """TensorRT's version by the banner of a trtexec log, `TensorRT v101303` for 10.13.3; empty if there is none."""
    found = re.search(r"TensorRT v(\d{6})\b", log)
    if found is None:
        return ""
    number = int(found.group(1))
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def stage_record(folder: Path, described: dict[str, Any], claimed: str) -> dict[str, Any]:
    """A stage's entry in `engines.json`. `described`: file, graph_sha256, profile, build_seconds.

    Raises ValueError if the layer information beside the plan shows another precision than the bundle claims.
    """
    plan = folder / described["file"]
    try:
        shares = precision_shares(json.loads((folder / f"{plan.name}.layers.json").read_bytes()))
    except (OSError, TypeError, AttributeError, RecursionError) as fault:
        raise ValueError(f"the layer information of {plan.name} is missing or damaged") from fault
    if shares is None:
        raise ValueError(f"{plan.name} does not show its layers' types; build it with --profilingVerbosity=detailed")
    error = precision_error(claimed, shares)
    if error:
        raise ValueError(f"{plan.name} has the wrong precision: {error}")
    return {
        **described,
        "sha256": hashlib.sha256(plan.read_bytes()).hexdigest(),
        "size_bytes": plan.stat().st_size,
        "half_share": shares["half"],
        "int8_share": shares["int8"],
        "evidence": "engine inspector",
    }


def record(folder: Path, described: dict[str, Any], gpu: str, seconds: list[float]) -> None:
    """Write `engines.json` for plans that trtexec left in `folder`.

    `described` is everything known before the build, `gpu` a line of nvidia-smi (name, compute capability), `seconds`
    the build time of each stage.
    """
    name, capability = (part.strip() for part in gpu.rsplit(",", 1))
    stages, version = {}, ""
    for index, (stage, known) in enumerate(described["stages"].items()):
        claimed = known.get("precision", described["precision"])
        stages[stage] = stage_record(folder, {**known, "build_seconds": seconds[index]}, claimed)
        version = version_in((folder / f"{known['file']}.log").read_text(errors="replace"))
    if not version:
        raise ValueError("the log of trtexec does not name its TensorRT version; dyndet needs 10 or later")
    whole = {
        **described,
        "tensorrt_version": version,
        "gpu": {"name": name, "compute_capability": capability},
        "stages": stages,
    }
    (folder / "engines.json").write_text(json.dumps(whole, indent=2) + "\n")
