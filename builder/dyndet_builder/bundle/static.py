"""The folder of an exported static detector: one graph and `static.json`, which describes it.

It is no bundle: nothing in it can be routed. `static.json` comes from others, too, so it is read as strictly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dynamicdet.class_names import check_class_names
from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dynamicdet.records import Name, Record, Version, check_regular, inside, read_record
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import LARGEST_GRAPH, check_detections, check_stage, file_sha256
from dyndet_builder.bundle.parts import IMAGE, LARGEST_SIDE, Nms, Opset, Parity, Source, Stage, Tensor
from dyndet_builder.bundle.spec import Precision

FILE_NAME = "static.json"
_LARGEST = 4 << 20
_ADVICE = "export it again with `dyndet export`"


class StaticExport(Record):
    """Contents of `static.json`."""

    schema_version: Literal[1] = 1
    name: Name
    architecture: Name
    input_size: Annotated[int, Field(ge=32, le=LARGEST_SIDE, multiple_of=32)] = Field(description="pixels")
    class_names: Annotated[tuple[str, ...], AfterValidator(check_class_names)]
    precision: Precision
    opset: Opset
    exporter: Literal["dynamo", "torchscript"]
    graph: Stage
    nms: Nms
    source: Source
    tool_versions: Annotated[dict[Name, Version], Field(max_length=50)]
    parity: Parity = Field(description="with the PyTorch network; difficulty and routes are always 0")
    gflops: Annotated[float, Field(gt=0, le=1e9)] = Field(description="of one image")

    @property
    def fit(self) -> Fit:
        """How pictures become its input."""
        return Fit.square(self.input_size)

    @model_validator(mode="after")
    def _check_graph(self) -> StaticExport:
        image = Tensor(name=IMAGE, dtype="uint8", shape=self.fit.shape)
        if self.graph.inputs != (image,):
            raise ValueError(f"the graph must read the image ({image}) and nothing else")
        if self.graph.detector is not None or self.graph.batch != "dynamic":
            raise ValueError("the graph is described as a part of a pair")
        outputs = {tensor.name: tensor for tensor in self.graph.outputs}
        check_detections(outputs, "detector", self.nms.max_detections)
        return self


def read_static(folder: Path) -> StaticExport:
    """Read the folder of a static detector, and check its graph against its description.

    Raises InputError if the folder is none, or has a file that is damaged, was changed, or leaves the folder.
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise InputError(
            f"{printable(folder)} is not an exported static detector: it has no {FILE_NAME}; `dyndet export` writes one"
        )
    described = read_record(
        path, StaticExport, described="a static detector of schema version 1", advice=_ADVICE, largest=_LARGEST
    )
    file = inside(folder, described.graph.file)
    if not file.exists():
        raise InputError(f"{printable(folder)} lacks the file {described.graph.file}; {_ADVICE}")
    check_regular(file, advice=_ADVICE, largest=LARGEST_GRAPH)
    if file_sha256(file) != described.graph.sha256:
        raise InputError(f"{printable(file)} has changed since it was exported (its SHA-256 differs); {_ADVICE}")
    check_stage(file, described.graph, opset=described.opset)
    return described
