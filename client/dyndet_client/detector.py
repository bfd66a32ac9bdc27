"""The detector behind a server's address, for programs that wait."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Literal, TypeVar, overload

from tenacity import Retrying, sleep_using_event

from dynamicdet.errors import InputError, ServerError
from dynamicdet.images import ImageSource
from dyndet_client import many
from dyndet_client.balancing.replicas import Replica, Replicas
from dyndet_client.balancing.turns import Turns
from dyndet_client.balancing.watching import join_all, watch
from dyndet_client.base import BaseDetector
from dyndet_client.codec import Options, ServedModel, decode, encode, encode_question
from dyndet_client.detections import Detections
from dyndet_client.errors import OverloadedError
from dyndet_client.results.operating_points import OperatingPoint, default_of
from dyndet_client.retrying import Deadline, Overload, policy
from dyndet_client.senders.connect import make_sender
from dyndet_client.senders.run import Flow, InFlight, Sender, run
from dyndet_client.session import Session
from dyndet_client.settings import Connection, TransportChoice

T = TypeVar("T")


class Detector(BaseDetector):
    """Detects objects through a Triton server that serves a dyndet model repository.

    Entering the context connects and checks the model, so a wrong address or model is reported at once. Without `with`,
    the first call does this, and `close` ends the connection. Threads may share a detector. A forked process must
    create its own.

    Args:
        url: the server's address: `host`, `host:port` or `grpc://host:port` for gRPC (default port 8001),
            `http://host:port` (8000) for HTTP, `grpcs://` and `https://` for both with TLS.
        model: the public model's name.
        timeout: the most seconds for a call, retries included; also for the first connection.
        transport: `auto` passes images through shared memory if the server is on this machine, and sends them
            otherwise; `network` always sends; `shared-memory` and `cuda-shared-memory` fail if they do not work.
        tls: certificates, for servers that speak TLS.
        headers: sent with every request.
        token: sent with every request as `authorization: Bearer TOKEN`.
        retries: how often a call is tried while the server cannot be reached.
        keep_alive: when gRPC checks whether a silent connection is still alive.
        abandoned_calls: how many calls that were given up may end on a server that must not be cancelled.
        deadline: for calls that give none; see `detect`.
        priority: likewise.
        tenant: likewise.
        masks: likewise.

    Raises InputError for a malformed address or setting, and on connecting ServerUnreachableError, ModelNotReadyError,
    NotADetectorError or NoMasksError (`dyndet_client.errors` shows the tree).

    ::

        with Detector("127.0.0.1:8001") as detector:
            found = detector.detect("street.jpg")
            print(found.route, found.names)
    """

    def _start(self) -> None:
        self._replicas = Replicas(self._connection, partial(_make_replica, self._model, self._choice))
        self._connecting = threading.Lock()
        self._stop = threading.Event()
        # Runs on close, when the detector is forgotten, and when the interpreter ends.
        self._end = weakref.finalize(self, _end, self._replicas, self._stop, os.getpid())

    def _only_session(self) -> Session | None:
        return None if self._replicas.only is None else self._replicas.only.session

    @property
    def operating_points(self) -> dict[str, OperatingPoint]:
        """The operating points that are in force on the server now, by name.

        The server rereads them when it is calibrated again, so each access asks it; nothing is detected or counted.
        Raises BadRequestError for a repository of an earlier version of dyndet, which does not give them, or another
        ServerError.
        """
        deadline = self._deadline()
        request = encode_question(self._connect(deadline))
        return self._try(lambda session: session.operating_points(request, deadline), deadline)

    @property
    def default_threshold(self) -> float:
        """The threshold of calls that choose none; it asks the server, as `operating_points` does."""
        return default_of(self.operating_points).threshold

    def connect(self) -> None:
        """Connect and check the model, if this was not done yet."""
        self._connect(self._deadline())

    def detect(
        self,
        image: ImageSource,
        *,
        threshold: float | None = None,
        operating_point: str | None = None,
        min_score: float = 0.25,
        timeout: float | None = None,
        request_id: str = "",
        deadline: float | None = None,
        priority: int | None = None,
        tenant: str | None = None,
        masks: bool | None = None,
    ) -> Detections:
        """Detect the objects in one image.

        Args:
            image: a path, the bytes of an image file, a PIL image or an RGB array (`dynamicdet.images.read_image`).
            threshold: images with a larger difficulty take the hard route; 1 makes every image easy, 0 makes it hard.
            operating_point: the name of a calibrated threshold. Without both, the server uses its default.
            min_score: objects below this score are dropped.
            timeout: the most seconds for this call, retries included, instead of the detector's value.
            request_id: a text for the server's logs and traces.
            deadline: how many seconds after sending the answer is of use. A server without that much time answers by
                the easy route (`route` is `degraded`) or refuses. A late answer is returned all the same.
            priority: 0 to 9; requests that wait on the server are taken up by it, the highest first.
            tenant: for whom the call is, where the server has a budget for each tenant.
            masks: whether to ask for a mask of each object (`Detections.masks`); by default they are neither computed
                nor sent. `has_masks` says whether the model has them.

        Raises InputError for an image that cannot be read or an option out of range, ServerUnreachableError,
        BadRequestError (such as an unknown operating point, or NoMasksError), OverloadedError, DeadlineExceededError,
        or another ServerError.
        """
        options = self._options(
            threshold=threshold,
            operating_point=operating_point,
            min_score=min_score,
            request_id=request_id,
            deadline=deadline,
            priority=priority,
            tenant=tenant,
            masks=masks,
        )
        return self._detect(image, options, self._deadline(timeout))

    @overload
    def detect_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = ...,
        errors: Literal["raise"] = ...,
        threshold: float | None = ...,
        operating_point: str | None = ...,
        min_score: float = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
        priority: int | None = ...,
        tenant: str | None = ...,
        masks: bool | None = ...,
    ) -> Iterator[Detections]: ...

    @overload
    def detect_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = ...,
        errors: Literal["return"],
        threshold: float | None = ...,
        operating_point: str | None = ...,
        min_score: float = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
        priority: int | None = ...,
        tenant: str | None = ...,
        masks: bool | None = ...,
    ) -> Iterator[Detections | InputError | OverloadedError]: ...

    def detect_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 4,
        errors: Literal["raise", "return"] = "raise",
        threshold: float | None = None,
        operating_point: str | None = None,
        min_score: float = 0.25,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: int | None = None,
        tenant: str | None = None,
        masks: bool | None = None,
    ) -> Iterator[Detections | InputError | OverloadedError]:
        """Detect the objects in many images; the answers come one by one, in the order of the images.

        At most `concurrency` requests are in flight, and at most `2 * concurrency` images are read ahead of the answers
        that were taken, so a generator of any length needs constant memory. If the caller stops early, pending requests
        are cancelled.

        Args:
            images: a list or a generator of images as `detect` takes them.
            concurrency: requests in flight.
            errors: `raise` stops at an image that cannot be read or that an overloaded server refuses; `return` yields
                its InputError or OverloadedError in its place and continues. Other errors are raised in both cases.
            threshold: see `detect`, as the other options.
            operating_point: likewise.
            min_score: likewise.
            timeout: the most seconds for each image, from the time when its turn comes.
            deadline: see `detect`; each image has its own.
            priority: likewise.
            tenant: likewise.
            masks: likewise.
        """
        many.check(images, concurrency, errors)
        options = self._options(
            threshold=threshold,
            operating_point=operating_point,
            min_score=min_score,
            deadline=deadline,
            priority=priority,
            tenant=tenant,
            masks=masks,
        )
        self._deadline(timeout)
        self._check_open()
        in_flight = InFlight()

        def answer(image: ImageSource) -> Detections | InputError | OverloadedError:
            try:
                return self._detect(image, options, self._deadline(timeout), in_flight)
            except (InputError, OverloadedError) as error:
                if errors == "raise":
                    raise
                return error

        return many.in_order(answer, images, concurrency=concurrency, cancel=in_flight.cancel)

    def close(self) -> None:
        """End the connection; the detector cannot be used afterwards."""
        self._closed = True
        self._end()

    def __enter__(self) -> Detector:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _detect(
        self, image: ImageSource, options: Options, deadline: Deadline, in_flight: InFlight | None = None
    ) -> Detections:
        served = self._connect(deadline)
        request = encode(served, image, options)
        deadline.sends(options.deadline)
        tensors = self._try(lambda session: session.infer(request, deadline), deadline, in_flight)
        return decode(served, request, tensors)

    def _connect(self, deadline: Deadline) -> ServedModel:
        self._check_open()
        if self._served is None:
            with self._connecting:
                if self._served is None:
                    self._served = self._accepted(self._join(deadline))
        return self._served

    def _join(self, deadline: Deadline) -> ServedModel:
        if self._replicas.only is not None:
            return self._try(lambda session: session.connect(deadline), deadline)
        served = self._retry(partial(join_all, self._replicas, deadline), deadline)
        arguments = (self._replicas, self._stop)
        threading.Thread(target=watch, args=arguments, name="dyndet-watch", daemon=True).start()
        return served

    def _known(self) -> ServedModel:
        return self._connect(self._deadline())

    def _try(self, flow: Callable[[Session], Flow[T]], deadline: Deadline, in_flight: InFlight | None = None) -> T:
        only, overload = self._replicas.only, Overload()
        if only is not None:
            return self._retry(lambda: run(flow(only.session), only.sender, in_flight), deadline, overload, in_flight)
        return self._retry(
            lambda: self._ask_in_turn(flow, deadline, overload, in_flight), deadline, overload, in_flight
        )

    def _ask_in_turn(
        self, flow: Callable[[Session], Flow[T]], deadline: Deadline, overload: Overload, in_flight: InFlight | None
    ) -> T:
        turns = Turns(self._replicas, self._retries, deadline, overload)
        for replica in turns:
            with turns.asking(replica):
                return run(flow(replica.session), replica.sender, in_flight)
        raise turns.problem()

    def _retry(
        self,
        attempt: Callable[[], T],
        deadline: Deadline,
        overload: Overload | None = None,
        in_flight: InFlight | None = None,
    ) -> T:
        try:  # the first attempt is made without tenacity, which costs as much as everything else here
            return attempt()
        except ServerError as error:
            failures = [error]
        rules = policy(self._retries, deadline, overload)
        if in_flight is not None:
            rules["sleep"] = sleep_using_event(in_flight.cancelled)

        def again() -> T:
            if failures:
                raise failures.pop()
            return attempt()

        return Retrying(**rules)(again)


def _make_replica(model: str, choice: TransportChoice, connection: Connection) -> Replica[Sender]:
    return Replica(Session(connection.address, model, choice), make_sender(connection))


def _end(replicas: Replicas[Sender], stop: threading.Event, owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked process has a copy that is not its own
    stop.set()
    for replica in replicas.close():
        replica.sender.close(replica.session.close())
