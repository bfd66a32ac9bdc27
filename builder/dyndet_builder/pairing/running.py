"""Runs merged detector graphs on pictures: each picture is decoded once for all of them, and never run twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.cores import usable_cores
from dynamicdet.errors import InputError
from dynamicdet.images import read_image
from dynamicdet.letterbox import Fit
from dynamicdet.router.features import looks_of
from dynamicdet.text import printable
from dyndet_builder.detectors.runner import DetectorRunner
from dyndet_builder.pairing.answer_store import AnswerStore, PictureAnswer
from dyndet_builder.pairing.answers import Answers

STEP = "run the detectors"
_BATCH = 8
"""pictures that are run together, where a file takes several"""
_STORED_TOGETHER = 64
"""pictures in a file of the store: what an interruption can lose"""
_AHEAD = 3 * _BATCH
"""pictures that are decoded while the detectors run"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A merged graph that is ready to run, and how pictures are fitted for it."""

    runner: DetectorRunner
    fit: Fit

    @property
    def key(self) -> str:
        """Changes with everything that the answers depend on, except the pictures."""
        versions = " ".join(f"{name} {metadata.version(name)}" for name in ("dyndet", "onnxruntime", "pillow"))
        return f"{self.runner.sha256} {self.fit.as_json()} {versions}"


def answers_of(
    runner: DetectorRunner,
    fit: Fit,
    pictures: Sequence[Path],
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Answers:
    """What one detector finds in the pictures; see `answers_of_all`."""
    return answers_of_all([Running(runner=runner, fit=fit)], pictures, cache=cache, progress=progress)[0]


def answers_of_all(
    detectors: Sequence[Running], pictures: Sequence[Path], *, cache: Path | None = None, progress: Progress = silent
) -> tuple[Answers, ...]:
    """What each detector finds in the pictures, which are decoded once for all of them.

    Unless it is None, the folder `cache` stores the answers as they come: a later call runs only what is missing, also
    after an interruption. Raises InputError for a picture that cannot be read, and if nothing can be stored.
    """
    if not pictures:
        raise InputError("no pictures were given; at least one is needed")
    stores = [None if cache is None else AnswerStore(cache, one.key) for one in detectors]
    found: list[list[PictureAnswer]] = [[] for _ in detectors]
    fresh: list[dict[str, PictureAnswer]] = [{} for _ in detectors]

    def keep() -> None:
        for store, answers in zip(stores, fresh, strict=True):
            if store is not None:
                store.add(answers)
            answers.clear()

    try:
        for prepared in _batches(detectors, stores, pictures):
            for one, answers, new, fitted in zip(detectors, found, fresh, _by_detector(prepared), strict=True):
                answered = _run(one, [picture for picture in fitted if isinstance(picture, _Fitted)])
                for picture in fitted:
                    answer = answered[picture.name] if isinstance(picture, _Fitted) else picture
                    answers.append(answer)
                new |= answered
            if max(map(len, fresh)) >= _STORED_TOGETHER:
                keep()
            progress(STEP, len(found[0]), len(pictures))
    finally:
        keep()
    for store in stores:
        if store is not None:
            store.prune()
    return tuple(_as_answers(one.fit, answers) for one, answers in zip(detectors, found, strict=True))


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """A picture that a detector has still to answer."""

    name: str
    """hash of the file's bytes"""
    size: tuple[int, int]
    image: UInt8Array


_Prepared = tuple["_Fitted | PictureAnswer", ...]
"""of one picture, one entry for each detector"""


def _batches(
    detectors: Sequence[Running], stores: Sequence[AnswerStore | None], pictures: Sequence[Path]
) -> Iterator[list[_Prepared]]:
    """The pictures in their order, a few at a time, decoded by another thread while the detectors run."""

    def prepare(path: Path) -> _Prepared:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{printable(path)} cannot be read: {printable(error.strerror or error)}") from error
        name = sha256(content).hexdigest()
        known = [None if store is None else store.get(name) for store in stores]
        if all(known):
            return tuple(one for one in known if one is not None)
        try:
            image = read_image(content)
        except InputError as error:
            raise InputError(f"{printable(path)}: {error}") from error
        size = (image.shape[1], image.shape[0])
        return tuple(
            _Fitted(name=name, size=size, image=one.fit(image).image) if kept is None else kept
            for one, kept in zip(detectors, known, strict=True)
        )

    waiting: deque[Future[_Prepared]] = deque()
    pool = ThreadPoolExecutor(min(2, usable_cores()))
    try:
        batch: list[_Prepared] = []
        for path in pictures:
            waiting.append(pool.submit(prepare, path))
            if len(waiting) > _AHEAD:
                batch.append(waiting.popleft().result())
            if len(batch) == _BATCH:
                yield batch
                batch = []
        for future in waiting:
            batch.append(future.result())
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _by_detector(batch: Sequence[_Prepared]) -> Iterator[_Prepared]:
    return zip(*batch, strict=True)


def _run(one: Running, pictures: Sequence[_Fitted]) -> dict[str, PictureAnswer]:
    """The answers by the hash of the picture; pictures with the same bytes run once."""
    distinct = list({picture.name: picture for picture in pictures}.values())
    answers: dict[str, PictureAnswer] = {}
    if distinct:
        outputs = one.runner.run(np.stack([picture.image for picture in distinct]))
        answers = {picture.name: _answer(picture, outputs, row) for row, picture in enumerate(distinct)}
    return answers


def _answer(picture: _Fitted, outputs: Mapping[str, npt.NDArray[Any]], row: int) -> PictureAnswer:
    count = int(np.reshape(outputs["num_detections"][row], -1)[0])
    return PictureAnswer(
        size=picture.size,
        boxes=outputs["boxes"][row, :count].astype(np.float32),
        scores=outputs["scores"][row, :count].astype(np.float32),
        classes=outputs["classes"][row, :count].astype(np.int64),
        look=looks_of(picture.image),
    )


def _as_answers(fit: Fit, found: Sequence[PictureAnswer]) -> Answers:
    return Answers(
        fit=fit,
        sizes=np.array([one.size for one in found], np.int64).reshape(-1, 2),
        boxes=tuple(one.boxes for one in found),
        scores=tuple(one.scores for one in found),
        classes=tuple(one.classes for one in found),
        looks=np.array([one.look for one in found], np.float32).reshape(-1, 2),
    )
