"""The detector behind a server's address, for programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Literal, TypeVar, overload

from tenacity import AsyncRetrying

from dynamicdet.errors import InputError, ServerError
from dynamicdet.images import ImageSource
from dyndet_client import many
from dyndet_client.base import BaseDetector
from dyndet_client.codec import Options, ServedModel, decode, encode, is_ready_made
from dyndet_client.detections import Detections
from dyndet_client.retrying import Deadline, policy
from dyndet_client.senders.connect import make_async_sender
from dyndet_client.senders.run import Flow, run_async

T = TypeVar("T")


class AsyncDetector(BaseDetector):
    """`Detector` for an event loop: the same arguments, methods, results and errors, but its methods are awaited.

    It belongs to the event loop that uses it first. It decodes and resizes images in threads, so the loop is not
    blocked. `class_names`, `input_size` and `transport` are available once it is connected.

    ::

        async with AsyncDetector("127.0.0.1:8001") as detector:
            found = await detector.detect("street.jpg")
            async for found in detector.detect_many(paths):
                print(found.names)
    """

    def _start(self) -> None:
        self._sender = make_async_sender(self._connection)
        self._connecting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

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
    ) -> Detections:
        """Detect the objects in one image; `Detector.detect` describes the arguments and errors."""
        options = Options(
            threshold=threshold, operating_point=operating_point, min_score=min_score, request_id=request_id
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
    ) -> AsyncIterator[Detections | InputError]: ...

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
    ) -> AsyncIterator[Detections | InputError]:
        """Detect the objects in many images; `Detector.detect_many` describes the arguments.

        It also takes asynchronous iterables. A plain iterable is read in the event loop and should not block.
        """
        many.check(images, concurrency, errors, in_loop=True)
        options = Options(threshold=threshold, operating_point=operating_point, min_score=min_score)
        self._deadline(timeout)
        self._check_open()

        async def answer(image: ImageSource) -> Detections | InputError:
            self._check_loop()
            try:
                return await self._detect(image, options, self._deadline(timeout))
            except InputError as error:
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
        await self._sender.close(self._session.close())

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
        tensors = await self._try(partial(self._session.infer, request, deadline), deadline)
        return decode(served, request, tensors)

    async def _connect(self, deadline: Deadline) -> ServedModel:
        self._check_open()
        self._check_loop()
        if self._served is None:
            async with self._connecting:
                if self._served is None:
                    self._served = await self._try(partial(self._session.connect, deadline), deadline)
        return self._served

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise InputError("this AsyncDetector belongs to the event loop that used it first; create one in each loop")

    async def _try(self, flow: Callable[[], Flow[T]], deadline: Deadline) -> T:
        try:  # as in Detector
            return await run_async(flow(), self._sender)
        except ServerError as error:
            failures = [error]

        async def attempt() -> T:
            if failures:
                raise failures.pop()
            return await run_async(flow(), self._sender)

        return await AsyncRetrying(**policy(self._retries, deadline))(attempt)
