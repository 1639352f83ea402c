"""A real headless Chromium that looks at a page, and what it saw."""

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

# Without these it asks hosts of its maker, in the background.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--disable-gpu",
    "--no-sandbox",
    "--disable-dev-shm-usage",  # which is small in containers
)


@dataclass
class Seen:
    """A page that is open, what its console said, and what it asked for beside itself."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def pixels(self, *selectors: str) -> list[list[np.ndarray]]:
        """uint8 (H, W, 3) of everything that matches each selector, from one picture of the whole page."""
        shot = np.asarray(Image.open(io.BytesIO(self.page.screenshot(full_page=True))).convert("RGB"))
        return [[_cut(shot, box) for box in self.page.evaluate(_BOXES, selector)] for selector in selectors]


_BOXES = "selector => [...document.querySelectorAll(selector)].map(element => element.getBoundingClientRect().toJSON())"


def _cut(shot: np.ndarray, box: dict[str, float]) -> np.ndarray:
    return shot[round(box["top"]) : round(box["bottom"]), round(box["left"]) : round(box["right"])]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=program, args=[*QUIET], timeout=60_000)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> Seen:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Seen(page)
    page.on("console", lambda message: seen.console.append(message.text))
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(path.as_uri(), timeout=30_000)
    return seen
