"""The graph that OpenVINO runs: the exported one in OpenVINO's own format, with marks that keep it in fp32.

On a processor with bfloat16, OpenVINO computes fp32 graphs in bfloat16 unless INFERENCE_PRECISION_HINT forbids it.
Triton's backend hands over five settings, and this is not one of them (triton-inference-server/openvino_backend,
src/openvino.cc). ONNX has no place for such a mark either. OpenVINO's format has one for each layer.

A layer loses its mark where OpenVINO replaces it while it compiles. So the usual replacements are made before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dynamicdet.extras import missing_extra

FILE = "model.xml"
"""beside it is model.bin with the weights"""

_MARK = {"name": "precise", "version": "0"}


def write_precise(graph: Path, folder: Path) -> None:
    """Write a stage's ONNX file as `FILE`, every layer of which runs in the precision that it has in the file.

    Raises MissingExtraError without OpenVINO.
    """
    try:
        import openvino
        from openvino._offline_transformations import apply_moc_transformations
    except ImportError as error:
        raise missing_extra(
            "stages for OpenVINO are converted with its package, which is not installed", "openvino"
        ) from error
    model = openvino.Core().read_model(graph)
    apply_moc_transformations(model, False)  # joins layers, such as a sigmoid and a product to one activation
    _replace_new_layers(model)
    path = folder / FILE
    openvino.save_model(model, path, compress_to_fp16=False)
    _mark_layers(path)


def _replace_new_layers(model: Any) -> None:
    """Use the forms of pooling and resizing that OpenVINO's CPU plugin computes; it would replace others by them."""
    from openvino import opset1, opset10

    for layer in model.get_ops():
        about = layer.get_attributes()
        if layer.get_type_name() == "MaxPool" and set(about["dilations"]) == {1}:
            sizes = [about[name] for name in ("strides", "pads_begin", "pads_end", "kernel")]
            new = opset1.max_pool(layer.input_value(0), *sizes, about["rounding_type"], about["auto_pad"])
        elif layer.get_type_name() == "Interpolate" and about["shape_calculation_mode"] == "scales":
            image, scales = layer.input_value(0), layer.input_value(1)
            rank = len(image.get_partial_shape())
            # The form of opset 4, which opset 10 still has. It does not read the sizes, since scales are given.
            new = opset10.interpolate(image, [0] * rank, scales, axes=list(range(rank)), **about)
        else:
            continue
        layer.output(0).replace(new.output(0))


def _mark_layers(path: Path) -> None:
    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        info = layer.find("rt_info")
        if info is None:
            info = ElementTree.Element("rt_info")
            layer.insert(0 if layer.find("data") is None else 1, info)
        ElementTree.SubElement(info, "attribute", _MARK)
    tree.write(path, encoding="utf-8", xml_declaration=True)
