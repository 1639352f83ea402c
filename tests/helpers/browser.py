"""Opens pages in a real headless Chromium and records console messages and requests."""

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from limits import LIMIT
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

# Without these flags Chromium contacts its vendor's servers in the background.
FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--disable-gpu",
    "--no-sandbox",
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
)


@dataclass
class OpenPage:
    """An open page, its console messages and the URLs that it requested."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def pixels(self, *selectors: str) -> list[list[np.ndarray]]:
        """uint8 (H, W, 3) crops of all elements that match each selector, from one full-page screenshot."""
        screenshot = np.asarray(Image.open(io.BytesIO(self.page.screenshot(full_page=True))).convert("RGB"))
        return [[_crop(screenshot, box) for box in self.page.evaluate(_BOXES, selector)] for selector in selectors]


_BOXES = "selector => [...document.querySelectorAll(selector)].map(element => element.getBoundingClientRect().toJSON())"


def _crop(screenshot: np.ndarray, box: dict[str, float]) -> np.ndarray:
    return screenshot[round(box["top"]) : round(box["bottom"]), round(box["left"]) : round(box["right"])]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS], timeout=1000 * LIMIT)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> OpenPage:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(1000 * LIMIT)
    opened = OpenPage(page)
    page.on("console", lambda message: opened.console.append(message.text))
    page.on("pageerror", lambda error: opened.console.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.as_uri())
    return opened
