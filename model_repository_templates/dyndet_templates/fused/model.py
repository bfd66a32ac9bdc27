"""Routes each image of a request through the graphs of a dynamic detector, all in this process.

The contract is that of the BLS topology, but no features go from process to process. Needs numpy, onnxruntime and
Triton's own module; all other files that it reads are beside it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

from refusals import RequestError  # type: ignore[import-not-found]
from serving import (  # type: ignore[import-not-found]
    EASY,
    FALLBACK,
    HARD,
    Answer,
    Asked,
    PublicModel,
    first_number,
    route_of,
)
from stages import StageError, Stages  # type: ignore[import-not-found]

_STAGE_OF = {EASY: "head1", FALLBACK: "head1", HARD: "detector2"}


class TritonPythonModel(PublicModel):  # type: ignore[misc] # its file is beside this one once both are rendered
    """The public detector and its stages."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graphs on the instance's device, and run them once."""
        super().initialize(args)
        fused = self.settings["fused"]
        self._merges = bool(fused["merges"])
        self._stages = Stages(
            Path(__file__).parent,
            self.settings["stages"],
            threads=fused["threads"],
            shared_pool=fused["shared_pool"],
            gpu=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None,
        )
        self._warm_up(int(json.loads(args["model_config"])["max_batch_size"]))

    def answer(self, asked: Sequence[Asked]) -> None:
        """Answer requests one after another; with merging, those that want boxes are answered as one batch."""
        before = dict(self._stages.seconds)
        together = [one for one in asked if one.detections] if self._merges else []
        if len(together) > 1 and self._answer_merged(together):
            asked = [one for one in asked if not one.detections]
        for one in asked:
            self._answer_request(one)
        self.metrics.spent({stage: spent - before[stage] for stage, spent in self._stages.seconds.items()})

    def _answer_request(self, asked: Asked) -> None:
        try:
            images, answers = asked.image.as_numpy(), None
            if self._merges and len(images) > 1 and asked.detections:
                with contextlib.suppress(StageError):  # one image caused it; below, each is answered on its own
                    answers = self._route(images, asked.thresholds, asked.detections)
            if answers is None:
                answers = [
                    self._answer_image(asked, images[row : row + 1], threshold)
                    for row, threshold in enumerate(asked.thresholds)
                ]
        except StageError as error:
            asked.failed_stages.append(error.stage)
            self.fail(asked, RequestError("stage-failed", str(error)))
        except Exception as error:
            self.fail(asked, error)
        else:
            self.send(asked, answers)

    def _answer_image(self, asked: Asked, image: Any, threshold: float) -> Answer:
        """Route one image, batch size 1. Only needed stages run, and only needed features are computed."""
        difficulties, given = self._stages.backbone1(image, with_features=bool(asked.detections))
        difficulty = first_number(difficulties)
        route = route_of(difficulty, threshold)
        if not asked.detections:
            return Answer(route, difficulty, {})
        if route == HARD:
            asked.check_not_cancelled()
            try:
                return Answer(HARD, difficulty, self._detect(HARD, given, asked.detections))
            except StageError as error:
                asked.failed_stages.append(error.stage)
                asked.warnings.append(f"detector 1 answers an image instead of detector 2: {error}")
                route = FALLBACK
        return Answer(route, difficulty, self._detect(route, given, asked.detections))

    def _answer_merged(self, asked: Sequence[Asked]) -> bool:
        """Answer requests as one batch; False, and nothing is sent, if a stage fails: one of them caused it."""
        images = [one.image.as_numpy() for one in asked]
        detections = tuple(dict.fromkeys(name for one in asked for name in one.detections))
        thresholds = [threshold for one in asked for threshold in one.thresholds]
        try:
            answers = self._route(np.concatenate(images), thresholds, detections)
        except StageError:
            return False
        start = 0
        for one in asked:
            end = start + len(one.thresholds)
            self.send(one, [_only(answer, one.detections) for answer in answers[start:end]])
            start = end
        return True

    def _route(self, images: Any, thresholds: Sequence[float], detections: Sequence[str]) -> list[Answer]:
        """Answers to images (B, S, S, 3): one batch for backbone 1, then one batch per route."""
        difficulties, given = self._stages.backbone1(images, with_features=True)
        found = [float(value) for value in difficulties.reshape(-1)]
        routes = [route_of(difficulty, threshold) for difficulty, threshold in zip(found, thresholds, strict=True)]
        tensors: list[dict[str, Any]] = [{} for _ in routes]
        for route in sorted(set(routes)):
            rows = [row for row, one in enumerate(routes) if one == route]
            chosen = given if len(rows) == len(routes) else self._stages.select(given, rows)
            arrays = self._stages.detector(_STAGE_OF[route], chosen, detections)
            for place, row in enumerate(rows):
                tensors[row] = {name: pb_utils.Tensor(name, array[place : place + 1]) for name, array in arrays.items()}
        return [Answer(*one) for one in zip(routes, found, tensors, strict=True)]

    def _detect(self, route: int, given: Any, detections: Sequence[str]) -> dict[str, Any]:
        arrays = self._stages.detector(_STAGE_OF[route], given, detections)
        return {name: pb_utils.Tensor(name, array) for name, array in arrays.items()}

    def _warm_up(self, max_batch: int) -> None:
        """Run all graphs, at every batch size that merging may need, before the model is ready."""
        file = Path(__file__).parent / "warmup_image.raw"
        if not file.exists():
            return
        image = np.frombuffer(file.read_bytes(), np.uint8).reshape(1, *self.settings["fused"]["image_shape"])
        outputs = tuple(self.settings["detection_outputs"])
        for batch in range(1, (max_batch if self._merges else 1) + 1):
            _, given = self._stages.backbone1(np.repeat(image, batch, axis=0), with_features=True)
            for stage in ("head1", "detector2"):
                self._stages.detector(stage, given, outputs)


def _only(answer: Answer, names: Sequence[str]) -> Answer:
    """An answer with only these outputs."""
    return Answer(answer.route, answer.difficulty, {name: answer.tensors[name] for name in names})
