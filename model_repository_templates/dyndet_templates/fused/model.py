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
from tracing import batch_span, image_span  # type: ignore[import-not-found]

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
        for one in self._answer_merged(asked) if self._merges and len(asked) > 1 else asked:
            self._answer_request(one)
        if any(one.counted for one in asked):
            self.metrics.spent({stage: spent - before[stage] for stage, spent in self._stages.seconds.items()})

    def _answer_request(self, asked: Asked) -> None:
        try:
            asked.waiting.check()
            images, answers = asked.image.as_numpy(), None
            if self._merges and len(images) > 1 and asked.detections:
                with contextlib.suppress(StageError):  # one image caused it; below, each is answered on its own
                    answers = self._route(images, [asked] * len(images), asked.thresholds, asked.detections)
            if answers is None:
                answers = [
                    self._answer_image(asked, images[row : row + 1], threshold)
                    for row, threshold in enumerate(asked.thresholds)
                ]
        except StageError as error:
            asked.failed_stages.append(error.stage)
            sentence = f"stage {error.stage} failed: the server's log says why"
            self.fail(asked, RequestError("stage-failed", sentence, detail=str(error)))
        except Exception as error:
            self.fail(asked, error)
        else:
            self._send(asked, answers)

    @image_span  # type: ignore[untyped-decorator]
    def _answer_image(self, asked: Asked, image: Any, threshold: float) -> Answer:
        """Route one image, batch size 1. Only needed stages run, and only needed features are computed."""
        asked.waiting.check()
        difficulties, given = self._stages.backbone1(image, with_features=bool(asked.detections))
        difficulty = first_number(difficulties)
        route = route_of(difficulty, threshold)
        if not asked.detections:
            return Answer(route, difficulty, {})
        asked.waiting.check()
        if route == HARD:
            try:
                return Answer(HARD, difficulty, self._detect(HARD, given, asked.detections))
            except StageError as error:
                asked.failed_stages.append(error.stage)
                asked.warnings.append(f"detector 1 answers an image instead of detector 2: {error}")
                route = FALLBACK
                asked.waiting.check()
        return Answer(route, difficulty, self._detect(route, given, asked.detections))

    def _answer_merged(self, asked: Sequence[Asked]) -> list[Asked]:
        """Answer requests that want boxes as one batch; returns those that must be answered one by one.

        If a stage fails, all must: one of them caused it.
        """
        together = [one for one in asked if one.detections and not one.waiting.gave_up()]
        alone = [one for one in asked if not one.detections or one.waiting.refusal is not None]
        if len(together) < 2:
            return list(asked)
        images = np.concatenate([one.image.as_numpy() for one in together])
        detections = tuple(dict.fromkeys(name for one in together for name in one.detections))
        owners = [one for one in together for _ in one.thresholds]
        thresholds = [threshold for one in together for threshold in one.thresholds]
        try:
            answers = self._route(images, owners, thresholds, detections)
        except StageError:
            return list(asked)
        start = 0
        for one in together:
            end = start + len(one.thresholds)
            self._send(one, [answer and _only(answer, one.detections) for answer in answers[start:end]])
            start = end
        return alone

    @batch_span  # type: ignore[untyped-decorator]
    def _route(
        self, images: Any, owners: Sequence[Asked], thresholds: Sequence[float], detections: Sequence[str]
    ) -> list[Answer | None]:
        """Answers to images (B, S, S, 3): one batch for backbone 1, then one batch per route.

        None for an image if nobody waits for its request any more when the turn of its route comes.
        """
        difficulties, given = self._stages.backbone1(images, with_features=True)
        found = [float(value) for value in difficulties.reshape(-1)]
        routes = [route_of(difficulty, threshold) for difficulty, threshold in zip(found, thresholds, strict=True)]
        answers: list[Answer | None] = [None] * len(routes)
        for route in sorted(set(routes)):
            rows = [row for row, one in enumerate(routes) if one == route and not owners[row].waiting.gave_up()]
            if not rows:
                continue
            chosen = given if len(rows) == len(routes) else self._stages.select(given, rows)
            arrays = self._stages.detector(_STAGE_OF[route], chosen, detections)
            for place, row in enumerate(rows):
                tensors = {name: pb_utils.Tensor(name, array[place : place + 1]) for name, array in arrays.items()}
                answers[row] = Answer(route, found[row], tensors)
        return answers

    def _send(self, asked: Asked, answers: Sequence[Answer | None]) -> None:
        """Send the answers to a request's images; an error if nobody waits for them any more."""
        complete = [answer for answer in answers if answer is not None]
        if len(complete) == len(answers):
            self.send(asked, complete)
        else:
            self.fail(asked, asked.waiting.refusal)

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
