"""The page's own server: its routes and who may use them. Only this module and those that it imports need NiceGUI."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamicdet.errors import InputError, PictureTooLargeError
from dyndet_builder.trying.intake import check_upload_size, thumbnail
from dyndet_builder.trying.page import TryPage
from dyndet_builder.trying.subject import Subject

TITLE = "Try a dynamic detector"
_ASSETS = Path(__file__).parent / "assets"
_MOST_TABS = 32
"""the oldest one is forgotten beyond that"""
_DECODERS = 2
"""pictures that are decoded at a time, for all tabs"""
_END_WITHIN_S = 1
_RECONNECT_WITHIN_S = 10.0
_STORED = {"cache-control": "private, max-age=86400, immutable"}
_HEADERS = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Nothing comes from another machine: neither scripts nor fonts, and no picture goes to one.
    "content-security-policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "font-src 'self' data:; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'none'; form-action 'none'"
    ),
}


def serve(subject: Subject, sock: socket.socket, *, hosts: tuple[str, ...], ready: Callable[[], None]) -> None:
    """Serve the page on a bound socket until SIGINT or SIGTERM, which is raised again afterwards.

    `hosts` are the names by which browsers may ask for it; `*` for any. `ready` is called once the page can be opened.
    """
    app = _Site(subject).app()
    app.add_middleware(_SafeHeaders)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    ui.run_with(
        app,
        title=TITLE,
        favicon=_ASSETS / "favicon.svg",
        dark=None,
        tailwind=False,
        reconnect_timeout=_RECONNECT_WITHIN_S,
        show_welcome_message=False,
    )
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_END_WITHIN_S
    )
    _Server(config, ready).run(sockets=[sock])


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it can be reached."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()


class _Site:
    """The routes of the page and its open tabs."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._tabs: OrderedDict[str, TryPage] = OrderedDict()
        self._thumbnails: dict[int, bytes] = {}
        subject.asker.pages = lambda: len(self._tabs)

    def app(self) -> FastAPI:
        """The application, to which NiceGUI adds its own routes."""
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=self._lifespan)
        app.add_route("/sample/{number:int}.jpg", self._get_sample)
        app.add_route("/seen/{token}/{number:int}/{kind}.jpg", self._get_seen)
        app.add_route("/picture/{token}", self._post_picture, methods=["POST"])
        app.mount("/assets", StaticFiles(directory=_ASSETS))
        ui.page("/", title=TITLE)(self._page)
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        self._decoding = asyncio.Semaphore(_DECODERS)
        watching = asyncio.create_task(self._subject.asker.watch())
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await self._subject.asker.close()

    def _page(self) -> None:
        token = secrets.token_urlsafe(24)
        ui.add_head_html('<link rel="stylesheet" href="assets/page.css">')
        ui.add_body_html(f'<script src="assets/page.js" data-token="{token}"></script>')
        self._tabs[token] = TryPage(self._subject, token, decoding=self._decoding)
        while len(self._tabs) > _MOST_TABS:
            self._tabs.popitem(last=False)
        ui.context.client.on_delete(lambda: self._tabs.pop(token, None))

    async def _post_picture(self, request: Request) -> Response:
        """A file that the browser sends: 204 if the answers are on the page, else the page says what is wrong."""
        page = self._tabs.get(request.path_params["token"])
        if page is None:
            return Response(status_code=404)
        name = request.query_params.get("name", "")
        try:
            async with page.receiving:
                data = await _body(request, name)
                shown = await page.take(data, name, from_camera=bool(request.query_params.get("camera")))
        except PictureTooLargeError as error:
            page.refuse(error)
            return Response(status_code=413)
        except ClientDisconnect:
            return Response(status_code=400)
        return Response(status_code=204 if shown else 422)

    async def _get_seen(self, request: Request) -> Response:
        page = self._tabs.get(request.path_params["token"])
        shot = None if page is None else page.tab.shot(request.path_params["number"])
        data = {} if shot is None else {"shown": shot.shown, "small": shot.thumbnail}
        return _jpeg(data.get(request.path_params["kind"], b""))

    async def _get_sample(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number not in self._thumbnails and number < len(self._subject.samples):
            try:
                async with self._decoding:
                    self._thumbnails[number] = await asyncio.to_thread(thumbnail, self._subject.samples[number])
            except InputError:
                self._thumbnails[number] = b""
        return _jpeg(self._thumbnails.get(number, b""))


async def _body(request: Request, name: str) -> bytes:
    """The body of a request, of which no more is read than a page takes. Raises PictureTooLargeError for more."""
    with contextlib.suppress(ValueError):
        check_upload_size(int(request.headers.get("content-length", "")), name)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        check_upload_size(len(data), name)
    return bytes(data)


def _jpeg(data: bytes) -> Response:
    if not data:
        return Response(status_code=404)
    return Response(data, media_type="image/jpeg", headers=_STORED)


class _SafeHeaders:
    """Adds headers that keep the page to itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
