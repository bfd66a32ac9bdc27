"""Routes each image of a request through the stages of a detector (Triton BLS).

backbone1 -> difficulty -> head1 if difficulty <= threshold, else detector2. In a pair, detector1 gives the difficulty
and has answered easy images with it. Images are routed one by one and wait for their stages in threads; the stages'
dynamic batching merges them. Needs numpy and Triton's own module; all other files that it reads are beside it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

from asked import FALLBACK, HARD, Answer, Asked  # type: ignore[import-not-found]
from reading import DIFFICULTY, IMAGE  # type: ignore[import-not-found]
from refusals import RequestError, error_of_call  # type: ignore[import-not-found]
from serving import STAGE_ERRORS, PublicModel, array_of, first_number  # type: ignore[import-not-found]
from threads import map_all  # type: ignore[import-not-found]
from tracing import image_span, stage_span  # type: ignore[import-not-found]
from turns import Turns  # type: ignore[import-not-found]


class TritonPythonModel(PublicModel):  # type: ignore[misc] # its file is beside this one once both are rendered
    """The public detector, with stages that are models of their own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the files in the model's own folder."""
        super().initialize(args)
        self._stages = {role: _Stage(**stage) for role, stage in self.settings["stages"].items()}
        self._features = self._stages[self.first].outputs
        folder = Path(__file__).parent
        self._turns = Turns(folder / "dyndet.json", folder / "model.py")
        self._memory = _preferred_memory(self.settings["stage_memory"])
        # The images of a request wait for their stages in threads. Requests wait in those of the queue: a request that
        # waits for its images must not take the threads that the images need.
        self._image_pool = ThreadPoolExecutor(int(json.loads(args["model_config"])["max_batch_size"]), "image")

    def answer(self, asked: Sequence[Asked]) -> None:
        """Answer the request of a worker."""
        for one in asked:
            self._answer_request(one)

    def finalize(self) -> None:
        """Answer what waits, stop the threads and release the metrics."""
        super().finalize()
        self._image_pool.shutdown()

    def _answer_request(self, asked: Asked) -> None:
        def answer(image: Any, threshold: float, row: int) -> Answer:
            return self._answer_image(asked, image, threshold, row)

        try:
            images = _single_images(asked.image)
            answers = _map(self._image_pool, answer, images, asked.thresholds, range(len(images)))
        except Exception as error:
            self.fail(asked, error)
        else:
            self.send(asked, answers)

    @image_span  # type: ignore[untyped-decorator]
    def _answer_image(self, asked: Asked, image: Any, _threshold: float, row: int) -> Answer:
        """Route one image, batch size 1. Only needed stages run, and only needed tensors are requested."""
        detections, tensors, given = asked.detections, {}, asked.difficulties[row]
        if given is None:
            tensors = self._run(self._stages[asked.first], asked, {IMAGE: image}, self._needed(detections))
            found = tensors.get(DIFFICULTY)
            difficulty = math.nan if found is None else first_number(array_of(found))
        else:
            difficulty = given
        route = self.route(asked, difficulty, row)
        if not detections:
            return Answer(route, difficulty, {})
        tensors[IMAGE] = image
        if route == HARD:
            try:
                return Answer(HARD, difficulty, self._run(self._stages[self.hard], asked, tensors, detections))
            except RequestError as error:
                if error.code not in STAGE_ERRORS or given is not None:
                    raise
                asked.warnings.append(f"detector 1 answers an image instead of detector 2: {error.explained}")
                route = FALLBACK
        if self.easy is None:
            return Answer(route, difficulty, {name: tensors[name] for name in detections})
        return Answer(route, difficulty, self._run(self._stages[self.easy], asked, tensors, detections))

    def _needed(self, detections: tuple[str, ...]) -> tuple[str, ...]:
        """The outputs of the first stage that an answer with these outputs of a detector needs."""
        if not detections:
            return (DIFFICULTY,)
        return (DIFFICULTY, *detections) if self.easy is None else self._features

    @stage_span  # type: ignore[untyped-decorator]
    def _run(self, stage: _Stage, asked: Asked, tensors: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """Call a stage with tensors from earlier stages; they do not pass through numpy."""
        if not stage.shares_failures:
            response, error = self._call(stage, asked, tensors, outputs)
        else:
            call = functools.partial(self._call, stage, asked, tensors, outputs)
            response, error = self._turns.together(call)
            if error is not None and error.code == "stage-failed":  # perhaps another image of the batch is to blame
                response, error = self._turns.alone(call)
        if error is not None:
            if error.code in STAGE_ERRORS:
                asked.failed_stages.append(stage.role)
            raise error
        return {tensor.name(): tensor for tensor in response.output_tensors()}

    def _call(self, stage: _Stage, asked: Asked, tensors: Mapping[str, Any], outputs: Sequence[str]) -> tuple[Any, Any]:
        """The response of a stage, and its error or None. Raises RequestError if nobody waits for the answer."""
        asked.waiting.check()
        response = pb_utils.InferenceRequest(
            model_name=stage.model,
            inputs=[tensors[name] for name in stage.inputs],
            requested_output_names=list(outputs),
            request_id=asked.request.request_id(),
            trace=asked.request.trace(),
            timeout=asked.waiting.left_us,
            **self._memory,
        ).exec()
        failed = response.has_error()
        return response, error_of_call(f"stage {stage.model}", response.error().message()) if failed else None


@dataclass(frozen=True)
class _Stage:
    """A stage model of the repository."""

    role: str
    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: str
    """`one`: a call takes one image, as all calls here"""
    shares_failures: bool
    """whether an image that fails can harm others, because Triton merges calls and the backend does not part them"""


def _map(pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """`map` with all calls at the same time; a single call runs in this thread, which is faster."""
    if len(arguments[0]) == 1:
        return [function(*(argument[0] for argument in arguments))]
    results: list[Any] = map_all(pool, function, *arguments)
    return results


def _preferred_memory(kind: str) -> dict[str, Any]:
    """Where stages put their outputs: in the memory where they compute, unless nothing here can read that memory."""
    if kind == "gpu" and importlib.util.find_spec("cupy") is None:
        pb_utils.Logger.log_warn("cupy is not installed: features go from stage to stage through CPU memory")
        return {"preferred_memory": pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)}
    return {}


def _single_images(batch: Any) -> list[Any]:
    if batch.shape()[0] == 1 and batch.name() == IMAGE:
        return [batch]
    return [pb_utils.Tensor(IMAGE, image[None]) for image in batch.as_numpy()]
