"""Serves a repository with an embedded server while its page is open."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynamicdet.errors import ServerError
from dyndet_builder.operating_points import UNCALIBRATED, OperatingPoint, points_file, read_operating_points
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.supervisor import Supervisor
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.trying.asking import Asker, maker
from dyndet_builder.trying.opening import Say
from dyndet_builder.trying.points import Calibration, Points, Promise
from dyndet_builder.trying.subject import Subject


@contextlib.contextmanager
def serving(repository: Path, *, model: str | None, samples: tuple[Path, ...], say: Say) -> Iterator[Subject]:
    """A detector of a repository on an embedded server, which is restarted when it fails.

    Raises InputError if the folder is not a repository that dyndet rendered, or if it holds several detectors and
    `model` names none of them; ServerError if the server does not start.
    """
    name = read_rendered(repository, model=model).model
    points = points_of_repository(repository, name)
    say("Starting the server ...")
    with TritonServer(repository, ServerOptions()) as server, _supervised(server, say):
        yield Subject(
            asker=Asker(make=maker([server.grpc_url], name)),
            points=points,
            model=name,
            address=server.grpc_url,
            samples=samples,
        )
        for number in (signal.SIGINT, signal.SIGTERM):  # it is being stopped; another signal ends it at once
            signal.signal(number, lambda _number, _frame: server.kill())


def points_of_repository(repository: Path, model: str) -> Points:
    """The operating points of a detector in a repository. Raises InputError if their file is missing or damaged."""
    content = read_operating_points(points_file(repository, model))
    evidence = content.evidence
    promises = {name: _promise(point) for name, point in content.points.items() if name != UNCALIBRATED}
    return Points(
        default=content.default if content.default in promises else None,
        promises=promises,
        calibration=None
        if evidence is None
        else _calibration(evidence.easy.mean_ms, evidence.hard.mean_ms, evidence.difficulty_quantiles),
    )


def _promise(point: OperatingPoint) -> Promise:
    return Promise(threshold=point.threshold, statistic=point.statistic, goal=point.goal, unit=point.unit or "ms")


def _calibration(easy_ms: float, hard_ms: float, quantiles: Sequence[float]) -> Calibration | None:
    if len(quantiles) < 2:
        return None
    return Calibration(easy_ms=easy_ms, hard_ms=hard_ms, difficulty_quantiles=tuple(sorted(quantiles)))


@contextlib.contextmanager
def _supervised(server: TritonServer, say: Say) -> Iterator[None]:
    stop = threading.Event()

    def watch() -> None:
        try:
            Supervisor(server=server, say=say).run(stop)
        except ServerError as error:
            say(str(error))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
