"""Serves a copy of a repository, whose operating point follows the load, and measures it under load.

The repository itself is never changed: the promise that a point needs for following is written into the copy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicdet.aliases import Progress, UInt8Array, silent
from dynamicdet.errors import InputError
from dynamicdet.files import scratch_folder, whole_file
from dynamicdet.letterbox import Fit
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.load.measure import Subject, measure_load
from dyndet_bench.load.plan import LoadPlan
from dyndet_bench.load.record import LoadRecord, Promise
from dyndet_bench.load.scoring import Accuracy
from dyndet_bench.load.sending import allow_many_files
from dyndet_bench.load.watching import memory_of
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.statistic import Statistic
from dyndet_bench.measuring.workload import read_letterboxed
from dyndet_builder.operating_points import points_file
from dyndet_builder.repository.fingerprint import repository_sha256
from dyndet_builder.repository.rendered import Rendered, read_rendered
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.targets import Target, parse_target

_FOLLOW = "follow_load"
_OPTION = "option --promise"


def parse_promise(text: str) -> Promise:
    """Read a promise such as `p95:90ms`. Raises InputError for anything but a percentile of the latency."""
    return _promise(parse_target(text), source=_OPTION, told=text)


def measure_under_load(
    repository: Path,
    *,
    plan: LoadPlan,
    images: Path | None = None,
    data: Path | None = None,
    model: str | None = None,
    operating_point: str | None = None,
    promise: Promise | None = None,
    max_images: int = 200,
    journals: JournalFolder | None = None,
    ready: Callable[[], None] = lambda: None,
    progress: Progress = silent,
) -> LoadRecord:
    """Measure a detector of a repository under load, on an embedded server that serves a copy of it.

    `images` is a folder of pictures to send. With the COCO data set `data`, its images are sent, `images` is their
    folder if it is elsewhere, and every answer is scored with the truth. `operating_point` is the one that follows the
    load, by default the default one; `promise` is what it promises, by default its own, else 10 x the mean latency of
    the easy route. At most `max_images` are sent in turn. `ready` is called once all that is
    given was read.

    Raises InputError, ServerError.
    """
    if images is None and data is None:
        raise InputError("give a folder of images to send, or a data set")
    if max_images < 1:
        raise InputError(f"max_images must be at least 1, got {max_images}")
    rendered = read_rendered(repository, model=model)
    name = operating_point or rendered.points.default
    threshold = rendered.point(name).threshold
    chosen = _images(images, data, rendered, max_images=max_images, progress=progress)
    known = promise or _own_promise(rendered, name)
    ready()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("load")) / "repository"
        shutil.copytree(repository, folder, symlinks=True)
        progress("start the server", 0, 1)
        allow_many_files()  # the server holds one for each request that waits
        server = stack.enter_context(TritonServer(folder))
        progress("start the server", 1, 1)
        served = stack.enter_context(Served(server.grpc_url, rendered.model, metrics_url=server.metrics_url))
        file = points_file(folder, rendered.model)
        subject = Subject(
            served=served,
            http_address=server.http_url,
            operating_point=name,
            threshold=threshold,
            promise=known,
            follow=lambda promised: _follow(file, name, promised),
            memory=memory_of(server.pid),
            ending=lambda: server.ending,
        )
        return measure_load(
            subject,
            chosen.images,
            plan=plan,
            accuracy=chosen.accuracy,
            journals=None if journals is None else journals.about(repository=repository_sha256(repository)),
            progress=progress,
        )


def _promise(target: Target, *, source: str, told: str) -> Promise:
    statistic = target.statistic
    if statistic.level is None or target.of_range:
        raise InputError(f"a promise under load is a percentile of the latency, such as p95:90ms, not {told!r}")
    return Promise(statistic=statistic.name, share=statistic.level, ms=target.value, source=source)


def _own_promise(rendered: Rendered, name: str) -> Promise | None:
    """What the operating point follows the load for, else the percentile it was calibrated for; None if neither."""
    written = _points(rendered.points_file)["points"][name].get(_FOLLOW)
    if isinstance(written, Mapping):
        statistic, ms = written.get("statistic", "p95"), written.get("promise_ms")
        return _promise(parse_target(f"{statistic}:{ms}ms"), source=f"operating point {name}", told=f"{statistic}:{ms}")
    point = rendered.point(name)
    if point.statistic is None or point.goal is None or point.unit != "ms":
        return None
    share = Statistic(point.statistic).level
    if share is None:
        return None
    return Promise(statistic=point.statistic, share=share, ms=point.goal, source=f"operating point {name}")


def _points(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_bytes())
    return content


def _follow(file: Path, name: str, promise: Promise) -> None:
    """Let a point of the copy follow the load, and make it the default one, which the metrics are about."""
    content = _points(file)
    point = content["points"][name]
    point[_FOLLOW] = {
        "floor": point["threshold"],
        "ceiling": 1.0,
        **(point.get(_FOLLOW) or {}),
        "promise_ms": promise.ms,
        "statistic": promise.statistic,
        "enabled": True,
    }
    content["default"] = name
    with whole_file(file, durable=False) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True, kw_only=True)
class _Images:
    """What is sent, and how its answers are scored."""

    images: Sequence[UInt8Array]
    accuracy: Accuracy | None


def _images(
    images: Path | None, data: Path | None, rendered: Rendered, *, max_images: int, progress: Progress
) -> _Images:
    fit: Fit = rendered.bundle.fit
    if data is None:
        assert images is not None
        return _Images(images=read_letterboxed(spread(pictures_in(images), max_images), fit), accuracy=None)
    # Needs what training needs: pycocotools and torch.
    from dyndet_builder.under_load.answers import AnswerPrecision

    accuracy = AnswerPrecision.read(
        data,
        fit,
        class_names=rendered.bundle.class_names,
        images=images,
        max_images=max_images,
        progress=progress,
    )
    return _Images(images=accuracy.images, accuracy=accuracy)
