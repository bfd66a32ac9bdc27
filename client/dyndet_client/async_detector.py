"""The detector behind a server's address, for programs with an event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Literal, TypeVar, overload

from tenacity import AsyncRetrying

from dynamicdet.errors import InputError, ServerError
from dynamicdet.images import ImageSource
from dyndet_client import many
from dyndet_client.balancing.replicas import Replica, Replicas
from dyndet_client.balancing.turns import Turns
from dyndet_client.balancing.watching import close_async, join_all_async, watch_async
from dyndet_client.base import BaseDetector
from dyndet_client.codec import Options, ServedModel, decode, encode, encode_question, is_ready_made
from dyndet_client.detections import Detections
from dyndet_client.errors import OverloadedError
from dyndet_client.results.operating_points import OperatingPoint, default_of
from dyndet_client.retrying import Deadline, Overload, policy
from dyndet_client.senders.connect import make_async_sender
from dyndet_client.senders.run import AsyncSender, Flow, run_async
from dyndet_client.session import Session
from dyndet_client.settings import Connection, TransportChoice

T = TypeVar("T")


class AsyncDetector(BaseDetector):
    """`Detector` for an event loop: the same arguments, methods, results and errors, but its methods are awaited.

    So are `operating_points` and `default_threshold`, which ask the server.

    It belongs to the event loop that uses it first. It decodes and resizes images in threads, so the loop is not
    blocked. `class_names`, `fit`, `has_masks`, `input_size` and `transport` are available once it is connected.

    ::

        async with AsyncDetector("127.0.0.1:8001") as detector:
            found = await detector.detect("street.jpg")
            async for found in detector.detect_many(paths):
                print(found.names)
    """

    def _start(self) -> None:
        self._replicas = Replicas(self._connection, partial(_make_replica, self._model, self._choice))
        self._watching: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def _only_session(self) -> Session | None:
        return None if self._replicas.only is None else self._replicas.only.session

    @property
    async def operating_points(self) -> dict[str, OperatingPoint]:
        """`Detector.operating_points`, awaited: `await detector.operating_points`."""
        deadline = self._deadline()
        request = encode_question(await self._connect(deadline))
        return await self._try(lambda session: session.operating_points(request, deadline), deadline)

    @property
    async def default_threshold(self) -> float:
        """`Detector.default_threshold`, awaited."""
        return default_of(await self.operating_points).threshold

    async def connect(self) -> None:
        """Connect and check the model, if this was not done yet."""
        await self._connect(self._deadline())

    async def detect(
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
        """Detect the objects in one image; `Detector.detect` describes the arguments and errors."""
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
        return await self._detect(image, options, self._deadline(timeout))

    @overload
    def detect_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
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
    ) -> AsyncIterator[Detections]: ...

    @overload
    def detect_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
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
    ) -> AsyncIterator[Detections | InputError | OverloadedError]: ...

    def detect_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
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
    ) -> AsyncIterator[Detections | InputError | OverloadedError]:
        """Detect the objects in many images; `Detector.detect_many` describes the arguments.

        It also takes asynchronous iterables. A plain iterable is read in the event loop and should not block.
        """
        many.check(images, concurrency, errors, in_loop=True)
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

        async def answer(image: ImageSource) -> Detections | InputError | OverloadedError:
            self._check_loop()
            try:
                return await self._detect(image, options, self._deadline(timeout))
            except (InputError, OverloadedError) as error:
                if errors == "raise":
                    raise
                return error

        return many.in_order_async(answer, images, concurrency=concurrency)

    async def close(self) -> None:
        """End the connection; the detector cannot be used afterwards."""
        if self._closed:
            return
        self._check_loop()
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*map(close_async, self._replicas.close()))

    async def __aenter__(self) -> AsyncDetector:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _detect(self, image: ImageSource, options: Options, deadline: Deadline) -> Detections:
        served = await self._connect(deadline)
        if is_ready_made(served, image):
            request = encode(served, image, options)
        else:
            request = await asyncio.to_thread(encode, served, image, options)
        deadline.sends(options.deadline)
        tensors = await self._try(lambda session: session.infer(request, deadline), deadline)
        return decode(served, request, tensors)

    async def _connect(self, deadline: Deadline) -> ServedModel:
        self._check_open()
        self._check_loop()
        if self._served is None:
            async with self._connecting:
                if self._served is None:
                    self._served = self._accepted(await self._join(deadline))
        return self._served

    async def _join(self, deadline: Deadline) -> ServedModel:
        if self._replicas.only is not None:
            return await self._try(lambda session: session.connect(deadline), deadline)
        served = await self._retry(partial(join_all_async, self._replicas, deadline), deadline)
        wanted = weakref.ref(self)
        self._watching = asyncio.create_task(watch_async(self._replicas, lambda: wanted() is not None))
        return served

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise InputError("this AsyncDetector belongs to the event loop that used it first; create one in each loop")

    async def _try(self, flow: Callable[[Session], Flow[T]], deadline: Deadline) -> T:
        only, overload = self._replicas.only, Overload()
        if only is not None:
            return await self._retry(lambda: run_async(flow(only.session), only.sender), deadline, overload)
        return await self._retry(lambda: self._ask_in_turn(flow, deadline, overload), deadline, overload)

    async def _ask_in_turn(self, flow: Callable[[Session], Flow[T]], deadline: Deadline, overload: Overload) -> T:
        turns = Turns(self._replicas, self._retries, deadline, overload)
        for replica in turns:
            with turns.asking(replica):
                return await run_async(flow(replica.session), replica.sender)
        raise turns.problem()

    async def _retry(
        self, attempt: Callable[[], Awaitable[T]], deadline: Deadline, overload: Overload | None = None
    ) -> T:
        try:  # as in Detector
            return await attempt()
        except ServerError as error:
            failures = [error]

        async def again() -> T:
            if failures:
                raise failures.pop()
            return await attempt()

        return await AsyncRetrying(**policy(self._retries, deadline, overload))(again)


def _make_replica(model: str, choice: TransportChoice, connection: Connection) -> Replica[AsyncSender]:
    return Replica(Session(connection.address, model, choice), make_async_sender(connection))
