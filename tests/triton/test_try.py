"""`dyndet try` in a real browser, on a real server with a toy detector."""

from __future__ import annotations

import io
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tritonclient.http import InferenceServerClient

from dyndet_builder.operating_points import OperatingPoint, OperatingPoints, points_file
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from tests.support.toy_bundle import image, write_toy_bundle

_CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
_HOSTILE = "<img src=x onerror=document.title='taken'>.png"

pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy detector with two operating points."""
    folder = tmp_path_factory.mktemp("try")
    render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions(name="toy", topology="fused"))
    promised = OperatingPoint(threshold=0.5, statistic="mean", unit="ms", goal=1000.0, reached=990.0)
    fast = promised.model_copy(update={"threshold": 0.9, "goal": 500.0})
    points = OperatingPoints(default="50%", points={"50%": promised, "fast": fast})
    points_file(folder / "models", "toy").write_text(points.model_dump_json())
    return folder / "models"


@pytest.fixture(scope="module")
def toy_server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, ServerOptions(stop_timeout_s=0)) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(toy_server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page about the running server."""
    with _trying("--url", toy_server.grpc_url, "--model", "toy", folder=tmp_path_factory.mktemp("page")) as (_, page):
        yield page


@contextmanager
def _trying(*words: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`dyndet try`, and the address that it prints."""
    samples = folder / "samples"
    samples.mkdir()
    for name, red in (("easy", 51), ("hard", 204)):
        (samples / f"{name}.png").write_bytes(_png(red))
    command = [str(Path(sys.executable).with_name("dyndet")), "try", *words, "--images", str(samples), "--no-open"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"Open (http://\S+)", line):
                yield process, found[1]
                break
        else:
            pytest.fail(f"the page did not open: {command}")
    finally:
        process.kill()
        process.wait()


@contextmanager
def _opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """The page in a tab of its own, when its first sample has been answered."""
    with browser.new_context(**options) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(address)
        expect(page.locator(".verdict")).to_contain_text("easy.png: difficulty 0.200", timeout=20_000)
        yield page


def _png(red: int, *, blue: int = 230) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image(red, 0, blue)).save(buffer, format="PNG")
    return buffer.getvalue()


def _upload(page: Page, name: str, data: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def _drag(page: Page, slider: str, pixels: int) -> None:
    """Drag a slider from its middle, so many pixels to the right; it stops at its end."""
    page.locator(slider).scroll_into_view_if_needed()
    box = page.locator(slider).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=4)
    page.mouse.up()


def _share(page: Page) -> str:
    return page.locator(".number strong").nth(1).inner_text()


def _requests(server: TritonServer) -> int:
    statistics = InferenceServerClient(server.http_url).get_inference_statistics("toy")
    return int(statistics["model_stats"][0]["inference_stats"]["success"]["count"])


def test_a_picture_shows_both_answers_and_the_threshold_reroutes_all_without_a_request(
    browser: Browser, address: str, toy_server: TritonServer
) -> None:
    foreign = []
    with _opened(browser, address) as page, _opened(browser, address) as other:
        page.on("request", lambda request: request.url.startswith(address) or foreign.append(request.url))
        _upload(page, _HOSTILE, _png(204))
        expect(page.locator(".verdict.hard")).to_contain_text(f"{_HOSTILE}: difficulty 0.800 is above")
        assert page.title() == "Try a dynamic detector"
        first, second = page.locator(".route").all()
        expect(first).not_to_contain_text("answers", use_inner_text=True)
        expect(second).to_contain_text("answers", use_inner_text=True)
        assert [route.locator(".box span").all_inner_texts() for route in (first, second)] == [["cat0.90"], ["cat0.90"]]
        assert _share(page) == "50%"

        before = _requests(toy_server)
        _drag(page, ".threshold", 400)
        expect(page.locator(".verdict.easy")).to_contain_text("is not above the threshold 1.000")
        assert _share(page) == "0%"
        _drag(page, ".threshold", -400)
        expect(page.locator(".number strong").nth(1)).to_have_text("100%")
        _drag(page, ".score", 400)
        expect(page.locator(".box")).to_have_count(0)
        assert _requests(toy_server) == before
        assert (_share(other), other.locator(".seen .thumb").count()) == ("0%", 1)  # tabs do not share anything
    assert foreign == []


def test_what_is_no_picture_gets_one_sentence_and_a_phone_shows_all_without_scrolling_sideways(
    browser: Browser, address: str
) -> None:
    with _opened(browser, address, viewport={"width": 390, "height": 844}) as page:
        note = page.locator(".note")
        _upload(page, "notes.png", b"not a picture")
        expect(note).to_have_text(re.compile(r"^notes\.png: not a readable image; dyndet accepts [\w, ]+\.$"))
        large = io.BytesIO()
        Image.new("1", (7000, 7000)).save(large, format="PNG")
        _upload(page, "large.png", large.getvalue())
        expect(note).to_contain_text("large.png: too large, 7000 x 7000 pixels")
        _upload(page, f"{'long' * 50}.png", _png(10))
        expect(note).to_be_hidden()
        expect(page.locator(".seen .thumb")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}/picture/unknown", data=b"x")
    with pytest.raises(urllib.error.HTTPError, match="400"):  # another site's name for this address
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "rebound.example"}))


def test_the_page_says_that_the_server_is_away_and_goes_on_when_it_is_back(
    browser: Browser, address: str, toy_server: TritonServer
) -> None:
    with _opened(browser, address) as page:
        banner = page.locator(".banner")
        expect(banner).to_be_hidden()
        toy_server.stop()
        _upload(page, "late.png", _png(230))
        expect(banner).to_contain_text("This page goes on when the server is back.", timeout=10_000)
        assert banner.inner_text().count(toy_server.grpc_url) == 1
        toy_server.start()
        expect(banner).to_be_hidden(timeout=15_000)
        expect(page.locator(".verdict.hard")).to_contain_text("late.png", timeout=10_000)


def test_a_repository_is_served_with_its_promises_while_the_page_is_open(
    browser: Browser, repository: Path, tmp_path: Path
) -> None:
    with _trying(str(repository), folder=tmp_path) as (process, address):
        with _opened(browser, address) as page:
            expect(page.locator(".promise")).to_contain_text("Promise: mean of 1000 ms. So far:")
            page.locator(".point").click()
            page.get_by_role("option", name="fast").click()
            expect(page.locator(".side output").first).to_have_text("0.900")
            page.get_by_text("Use the camera").click()
            expect(page.locator(".verdict")).to_contain_text("camera:")
            page.get_by_text("Stop the camera").click()
            expect(page.get_by_text("Use the camera")).to_be_visible()
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert not [child for child in children if child.is_running() and child.name() == "tritonserver"]
        assert [path.name for path in tmp_path.iterdir()] == ["samples"]  # it writes nothing where it is started
