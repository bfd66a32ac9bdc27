"""Routes each image of a request through the graphs of a detector, all in this process.

The contract is that of the BLS topology, but no features go from process to process. Needs numpy, onnxruntime and
Triton's own module; all other files that it reads are beside it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

from asked import FALLBACK, HARD, Answer, Asked  # type: ignore[import-not-found]
from reading import DIFFICULTY  # type: ignore[import-not-found]
from refusals import RequestError  # type: ignore[import-not-found]
from serving import PublicModel, first_number  # type: ignore[import-not-found]
from stages import StageError, Stages  # type: ignore[import-not-found]
from tracing import batch_span, image_span  # type: ignore[import-not-found]


class TritonPythonModel(PublicModel):  # type: ignore[misc] # its file is beside this one once both are rendered
    """The public detector and its stages."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graphs on the instance's device, and run them once."""
        super().initialize(args)
        fused = self.settings["fused"]
        self._merges = bool(fused["merges"])
        self._features = tuple(self.settings["stages"][self.first]["outputs"])
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
                    answers = self._route(images, [asked], asked.detections)
            if answers is None:
                answers = [
                    self._answer_image(asked, images[row : row + 1], threshold, row)
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
    def _answer_image(self, asked: Asked, image: Any, _threshold: float, row: int) -> Answer:
        """Route one image, batch size 1. Only needed stages run, and only needed tensors are computed."""
        asked.waiting.check()
        given = asked.difficulties[row]
        difficulty, found, kept = given, {}, None
        if difficulty is None:
            found, kept = self._stages.first(asked.first, image, self._needed(asked.detections))
            difficulty = first_number(found[DIFFICULTY])
        route = self.route(asked, difficulty, row)
        if not asked.detections:
            return Answer(route, difficulty, {})
        if route == HARD:
            asked.waiting.check()
            try:
                kept = self._stages.given(image) if kept is None else kept
                return Answer(HARD, difficulty, _tensors(self._stages.detector(self.hard, kept, asked.detections)))
            except StageError as error:
                if given is not None:
                    raise
                asked.failed_stages.append(error.stage)
                asked.warnings.append(f"detector 1 answers an image instead of detector 2: {error}")
                route = FALLBACK
        if self.easy is None:
            return Answer(route, difficulty, _tensors({name: found[name] for name in asked.detections}))
        asked.waiting.check()
        return Answer(route, difficulty, _tensors(self._stages.detector(self.easy, kept, asked.detections)))

    def _needed(self, detections: Sequence[str]) -> tuple[str, ...]:
        """The outputs of the first stage that an answer with these outputs of a detector needs."""
        if not detections:
            return (DIFFICULTY,)
        return (DIFFICULTY, *detections) if self.easy is None else self._features

    def _answer_merged(self, asked: Sequence[Asked]) -> list[Asked]:
        """Answer requests that want boxes as one batch; returns those that must be answered one by one.

        If a stage fails, all must: one of them caused it. Requests that begin with another stage are another batch.
        """
        if len({_begins(one) for one in asked}) > 1:
            groups: dict[tuple[str, bool], list[Asked]] = {}
            for one in asked:
                groups.setdefault(_begins(one), []).append(one)
            return [one for group in groups.values() for one in self._answer_merged(group)]
        together = [one for one in asked if one.detections and not one.waiting.gave_up()]
        alone = [one for one in asked if not one.detections or one.waiting.refusal is not None]
        if len(together) < 2:
            return list(asked)
        images = np.concatenate([one.image.as_numpy() for one in together])
        detections = tuple(dict.fromkeys(name for one in together for name in one.detections))
        try:
            answers = self._route(images, together, detections)
        except StageError:
            return list(asked)
        start = 0
        for one in together:
            end = start + len(one.thresholds)
            self._send(one, [answer and _only(answer, one.detections) for answer in answers[start:end]])
            start = end
        return alone

    @batch_span  # type: ignore[untyped-decorator]
    def _route(self, images: Any, asked: Sequence[Asked], detections: Sequence[str]) -> list[Answer | None]:
        """Answers to the images (B, H, W, 3) of requests: one batch for the first stage, then one per route.

        None for an image if nobody waits for its request any more when the turn of its route comes.
        """
        owners = [one for one in asked for _ in one.thresholds]
        own_rows = [row for one in asked for row in range(len(one.thresholds))]
        if asked[0].is_second:
            earlier = [given for one in asked for given in one.difficulties]
            found, kept, difficulties = {}, self._stages.given(images), [float(one or 0) for one in earlier]
        else:
            found, kept = self._stages.first(asked[0].first, images, self._needed(detections))
            difficulties = [float(value) for value in found[DIFFICULTY].reshape(-1)]
        routes = list(map(self.route, owners, difficulties, own_rows))
        answers: list[Answer | None] = [None] * len(routes)
        for stage in (self.easy, self.hard):
            chosen_by = [(route == HARD) == (stage == self.hard) for route in routes]
            rows = [row for row, is_chosen in enumerate(chosen_by) if is_chosen and not owners[row].waiting.gave_up()]
            if not rows:
                continue
            if stage is None:
                arrays = {name: found[name][rows] for name in detections}
            else:
                chosen = kept if len(rows) == len(routes) else self._stages.select(kept, rows)
                arrays = self._stages.detector(stage, chosen, detections)
            for place, row in enumerate(rows):
                tensors = _tensors({name: array[place : place + 1] for name, array in arrays.items()})
                answers[row] = Answer(routes[row], difficulties[row], tensors)
        return answers

    def _send(self, asked: Asked, answers: Sequence[Answer | None]) -> None:
        """Send the answers to a request's images; an error if nobody waits for them any more."""
        complete = [answer for answer in answers if answer is not None]
        if len(complete) == len(answers):
            self.send(asked, complete)
        else:
            self.fail(asked, asked.waiting.refusal)

    def _warm_up(self, max_batch: int) -> None:
        """Run all graphs, at every batch size that merging may need, before the model is ready."""
        outputs = tuple(self.settings["detection_outputs"])
        last = [stage for stage in (self.easy, self.hard) if stage is not None]
        for first, shape in self.settings["fused"]["image_shapes"].items():
            file = Path(__file__).parent / f"warmup_{first}.raw"
            if not file.exists():
                continue
            image = np.frombuffer(file.read_bytes(), np.uint8).reshape(1, *shape)
            for batch in range(1, (max_batch if self._merges else 1) + 1):
                _, kept = self._stages.first(first, np.repeat(image, batch, axis=0), self._needed(outputs))
                for stage in last if first == self.first else ():
                    self._stages.detector(stage, kept, outputs)


def _begins(asked: Asked) -> tuple[str, bool]:
    """With which stage a request begins, and whether an earlier request has run that."""
    return asked.first, asked.is_second


def _tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: pb_utils.Tensor(name, array) for name, array in arrays.items()}


def _only(answer: Answer, names: Sequence[str]) -> Answer:
    """An answer with only these outputs."""
    return Answer(answer.route, answer.difficulty, {name: answer.tensors[name] for name in names})
