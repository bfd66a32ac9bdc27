"""What a user should know before a detector is served: costs that no option removes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.detectors.facts import GraphFacts
from dyndet_builder.detectors.sources.metadata import is_ultralytics

Kind = Literal["score floor", "batch", "classes", "licence", "precision", "shape", "external data", "metadata"]
_HIGH = 0.01
"""score floors above this cost average precision and hide what the router reads"""
_COCO_CLASSES = 80


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One of them."""

    kind: Kind
    text: str
    """one sentence"""
    is_warning: bool = False


def findings_of(facts: GraphFacts, draft: DetectorSpec | None) -> tuple[Finding, ...]:
    """What to know about a file; `draft` is what is known about the detector so far."""
    found = [*_floors(facts), *_precision(facts), *_licence(facts)]
    if draft is not None:
        found += [*_batch(draft), *_classes(draft), *_shape(facts, draft)]
    if facts.external:
        names = ", ".join(facts.external[:3])
        found.append(Finding(kind="external data", text=f"the weights are in {names}; the file needs them beside it"))
    return tuple(found)


def _floors(facts: GraphFacts) -> list[Finding]:
    high = [one for one in facts.score_floors if one > _HIGH]
    if not high:
        return []
    text = (
        f"the graph drops boxes with a score below {' or '.join(f'{one:g}' for one in high)}: that costs average "
        "precision, and hides the low scores that a router needs; export without suppression, or with a floor of 0.001"
    )
    return [Finding(kind="score floor", text=text, is_warning=True)]


def _precision(facts: GraphFacts) -> list[Finding]:
    total = sum(facts.weights.values())
    half = facts.weights.get("float16", 0) + facts.weights.get("bfloat16", 0)
    if {"QuantizeLinear", "DequantizeLinear", "QLinearConv"} & {*facts.operators}:
        return [Finding(kind="precision", text="the graph is quantised, so it cannot be quantised again")]
    if total and half > total / 2:
        return [Finding(kind="precision", text="the weights are float16; on a CPU they are slower than float32")]
    return []


def _licence(facts: GraphFacts) -> list[Finding]:
    licence = facts.metadata.get("license") or facts.metadata.get("licence")
    if is_ultralytics(facts.metadata):
        text = (
            "Ultralytics licenses its models under AGPL-3.0, or under a licence for enterprises; a service that uses "
            "one must comply with it"
        )
        return [Finding(kind="licence", text=text, is_warning=True)]
    return [Finding(kind="licence", text=f"the metadata name the licence {licence[:200]}")] if licence else []


def _batch(draft: DetectorSpec) -> list[Finding]:
    if draft.input.batch == "dynamic":
        return []
    text = (
        "the file takes one picture at a time, so requests that arrive together run one by one; export it with a "
        "dynamic batch if the exporter can"
    )
    return [Finding(kind="batch", text=text)]


def _classes(draft: DetectorSpec) -> list[Finding]:
    ids = draft.output.class_ids
    if ids is None:
        return []
    text = f"{len(ids)} classes lie in {max(ids) + 1} slots; unused slots are dropped"
    if len(ids) == _COCO_CLASSES:
        text = f"the {len(ids)} classes of COCO lie in {max(ids) + 1} slots; the unused ones are dropped"
    return [Finding(kind="classes", text=text)]


def _shape(facts: GraphFacts, draft: DetectorSpec) -> list[Finding]:
    picture = next((one for one in facts.inputs if one.name == draft.input.name), None)
    is_free = picture is not None and sum(isinstance(side, str) for side in picture.dims) >= 2
    if not is_free or draft.output.family not in ("detr", "joined", "triple"):
        return []
    height, width = draft.input.size
    text = (
        "the file accepts pictures of several sizes, but transformers are often right only at the size of their "
        "training" + (", and at squares" if height != width else "")
    )
    return [Finding(kind="shape", text=text, is_warning=height != width)]
