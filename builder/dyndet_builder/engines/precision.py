"""The precision of a graph, and of a network that TensorRT parsed from it: an fp32 engine must never pass for fp16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from dynamicdet.errors import ParityError
from dyndet_builder.bundle.manifest import Bundle, Precision
from dyndet_builder.bundle.precision import graph_shares
from dyndet_templates.engines.layers import precision_error

_COMPUTING = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


def check_bundle_precision(folder: Path, bundle: Bundle) -> None:
    """Raise ParityError if a stage's graph has another precision than the bundle claims.

    With strong typing, an engine has the precision of its graph; no option of the builder changes it.
    """
    for stage, described in bundle.stages.items():
        model = onnx.load(folder / described.file, load_external_data=False)
        check_precision(graph_shares(model), bundle.precision_of(stage), f"the graph of {stage}")


def check_precision(shares: dict[str, float], claimed: Precision, what: str) -> None:
    """Raise ParityError if the `shares` of `half` and `int8` do not fit the claimed precision."""
    error = precision_error(claimed, shares)
    if error:
        raise ParityError(f"{what} has the wrong precision: {error}")


def network_shares(network: Any) -> dict[str, float]:
    """The same shares in a strongly typed network; its builder must not choose other types."""
    dequantized, computing = set(), []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "DEQUANTIZE":
            dequantized.add(layer.get_output(0).name)
        elif layer.type.name in _COMPUTING:
            computing.append(layer)
    count = max(1, len(computing))
    half = sum(layer.get_output(0).dtype.name in ("HALF", "BF16") for layer in computing)
    int8 = sum(layer.get_input(0).name in dequantized for layer in computing)
    return {"half": half / count, "int8": int8 / count}


def share_of(claimed: Precision, shares: dict[str, float]) -> float:
    """Share of an engine with the precision that its bundle claims, for tables."""
    return {"fp32": 1 - shares["half"] - shares["int8"], "fp16": shares["half"], "int8": shares["int8"]}[claimed]
