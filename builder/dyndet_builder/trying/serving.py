"""Serves a repository with an embedded server while its page is open."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from dynamicdet.errors import ServerError
from dyndet_builder.operating_points import points_file, read_operating_points
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.supervisor import StopRequest, Supervisor
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.trying.asking import Asker, maker
from dyndet_builder.trying.opening import Say
from dyndet_builder.trying.points import Calibration
from dyndet_builder.trying.subject import Subject


@contextlib.contextmanager
def serving(repository: Path, *, model: str | None, samples: tuple[Path, ...], say: Say) -> Iterator[Subject]:
    """A detector of a repository on an embedded server, which is restarted when it fails.

    Raises InputError if the folder is not a repository that dyndet rendered, or if it holds several detectors and
    `model` names none of them; ServerError if the server does not start.
    """
    name = read_rendered(repository, model=model).model
    calibration = _calibration(repository, name)
    say("Starting the server ...")
    with TritonServer(repository, ServerOptions()) as server, _supervised(server, say):
        yield Subject(
            asker=Asker(make=maker([server.grpc_url], name)),
            calibration=calibration,
            model=name,
            address=server.grpc_url,
            samples=samples,
        )
        for number in (signal.SIGINT, signal.SIGTERM):  # it is being stopped; another signal ends it at once
            signal.signal(number, lambda _number, _frame: server.kill())


def _calibration(repository: Path, model: str) -> Calibration | None:
    """What a detector's calibration measured; None without one. Raises InputError if the file is damaged."""
    evidence = read_operating_points(points_file(repository, model)).evidence
    if evidence is None or len(evidence.difficulty_quantiles) < 2:
        return None
    return Calibration(
        easy_ms=evidence.easy.mean_ms,
        hard_ms=evidence.hard.mean_ms,
        difficulty_quantiles=tuple(sorted(evidence.difficulty_quantiles)),
    )


@contextlib.contextmanager
def _supervised(server: TritonServer, say: Say) -> Iterator[None]:
    stop = StopRequest()

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
