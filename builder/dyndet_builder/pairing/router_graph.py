"""Puts a router into the graph of detector 1, in standard operators."""

from __future__ import annotations

import onnx

from dyndet_builder.pairing.router import FittedRouter


def attach(model: onnx.ModelProto, router: FittedRouter) -> onnx.ModelProto:
    """A copy of a merged detector with the output `difficulty`, float32 [B, 1]."""
    raise NotImplementedError
