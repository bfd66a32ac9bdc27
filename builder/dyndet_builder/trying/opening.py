"""Opens the page, and keeps it open until Ctrl-C. This needs no more than the client and NiceGUI."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from dynamicdet.errors import InputError, ServerError
from dynamicdet.pictures import pictures_in, spread
from dyndet_builder.demo_assets import demo_images
from dyndet_builder.server.ports import is_loopback
from dyndet_builder.trying.asking import Asker, maker
from dyndet_builder.trying.subject import Subject
from dyndet_client.settings import Tls

DEFAULT_PORT = 8088
MOST_SAMPLES = 24
_EVERYWHERE = "0.0.0.0"

Say = Callable[[str], None]


def open_page(
    subject: Subject, *, host: str = "127.0.0.1", port: int | None = None, opens_browser: bool = True, say: Say
) -> None:
    """Serve the page until Ctrl-C or SIGTERM. `say` gets its address, and a warning if others can reach it.

    `port` is by default `DEFAULT_PORT` if it is free, otherwise any free one. Raises ModuleNotFoundError without
    NiceGUI, InputError for a host that this machine does not have, ServerError if the port is taken.
    """
    web = load_web()
    with _bound(host, port) as sock:
        shown = f"http://{'127.0.0.1' if host == _EVERYWHERE else host}:{sock.getsockname()[1]}"

        def ready() -> None:
            say(f"Open {shown} (Ctrl-C ends)")
            if not is_loopback(host):
                say(
                    f"Warning: everybody who reaches host {host} can use this page without a password, and send "
                    "pictures to the detector. Let only networks that you trust reach it."
                )
            if opens_browser and _has_display():
                threading.Thread(target=webbrowser.open, args=(shown,), daemon=True).start()

        hosts = ("127.0.0.1", "localhost", host) if is_loopback(host) else ("*",)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):  # both signals, once the page has ended
            web.serve(subject, sock, hosts=hosts, ready=ready)


def load_web() -> ModuleType:
    """The module that needs NiceGUI. Raises ModuleNotFoundError without it."""
    # NiceGUI would read stored values from a folder in the current one. The page stores none and is to read none.
    os.environ.setdefault("NICEGUI_STORAGE_PATH", f"{os.devnull}/nicegui")
    return importlib.import_module("dyndet_builder.trying.web")


def subject_at(
    urls: Sequence[str],
    *,
    model: str,
    samples: tuple[Path, ...] = (),
    timeout: float = 30.0,
    tls: Tls | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
) -> Subject:
    """A detector on running servers. Raises InputError if the arguments contradict each other.

    No server is asked: the page says if there is none, and goes on when there is.
    """
    make = maker(urls, model, timeout=timeout, tls=tls, headers=headers, token=token)
    return Subject(asker=Asker(make=make), model=model, address=", ".join(urls), samples=samples)


def find_samples(folder: Path | None) -> tuple[Path, ...]:
    """Pictures of a folder, or of the demo in a source tree; none without either.

    Raises InputError if the folder holds no pictures.
    """
    if folder is None:
        try:
            folder = demo_images()
        except InputError:
            return ()
    return tuple(spread(pictures_in(folder), MOST_SAMPLES))


@contextlib.contextmanager
def _bound(host: str, port: int | None) -> Iterator[socket.socket]:
    """A socket for the page. Raises InputError for a host that is not this machine's, ServerError for a taken port."""
    is_loopback(host)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for choice in (DEFAULT_PORT, 0) if port is None else (port,):
            try:
                sock.bind((host, choice))
                break
            except OSError as error:
                if port is not None or choice == 0:
                    raise ServerError(
                        f"the page cannot use port {choice} on {host} ({error.strerror}); give another one with --port"
                    ) from error
        yield sock


def _has_display() -> bool:
    """Whether a browser has somewhere to open."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
