"""Makes the documents' pictures of the page: `python -m tests.support.programs.try_screenshot ADDRESS OUTPUT.png`.

ADDRESS is that of an open page, as `dyndet try --no-open` prints it. All samples are tried, then one in which
detector 2 shows more is chosen, or the one named with `--picture`. `--dark` and `--phone` change the look.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
_SAMPLES_MS = 180_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("output", type=Path)
    parser.add_argument("--picture", help="name of the sample to show")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--phone", action="store_true")
    asked = parser.parse_args()
    size = (390, 844) if asked.phone else (1280, 980)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if asked.dark else "light"
        )
        page.goto(asked.address)
        _try_samples(page)
        if asked.picture is None:
            _choose(page)
        else:
            page.locator(".seen").get_by_title(f"Show {asked.picture} again").click()
        page.wait_for_timeout(600)  # transitions end
        page.screenshot(path=asked.output, full_page=asked.phone)
        browser.close()


def _try_samples(page: Page) -> None:
    expect(page.locator(".seen .thumb")).to_have_count(1, timeout=_SAMPLES_MS)
    count = page.locator(".samples .thumb").count()
    page.get_by_text("Try all").click()
    expect(page.locator(".number strong").first).to_have_text(str(count + 1), timeout=_SAMPLES_MS)
    expect(page.get_by_text("Try all")).to_be_visible()


def _choose(page: Page) -> None:
    """Show the hard picture in which detector 2 is surest of what only it shows, and which has few other objects."""
    best = (-1.0, 0)
    hard = page.locator(".seen .thumb.hard")
    for number in range(hard.count()):
        hard.nth(number).click()
        expect(hard.nth(number)).to_have_class("thumb hard now")
        scores = map(float, page.locator(".box.more i").all_inner_texts())
        value = sum(score**2 for score in scores) - 0.1 * page.locator(".box").count()
        best = max(best, (value, number))
    if hard.count():
        hard.nth(best[1]).click()


if __name__ == "__main__":
    main()
