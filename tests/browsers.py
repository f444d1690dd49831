"""A real browser at a real service: every page is watched for what no page of ours may do."""

import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    async_playwright,
    expect,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_PATIENCE_MS = 20_000
_LOST = "Failed to load resource"  # Chromium's word for every answer that is no success


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium; without one the tests say so, loudly, and where CI is set they fail."""
    if CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("NO CHROMIUM: the console is not tried; install Debian's chromium")
    assert CHROMIUM, "install Debian's chromium"
    with _own_directory() as directory:
        async with async_playwright() as playwright:
            environment: dict[str, str | float | bool] = {**os.environ, "TMPDIR": directory}
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS, env=environment)
            yield browser
            await browser.close()


@contextmanager
def _own_directory() -> Iterator[str]:
    """What a browser leaves of its locks and profiles goes with it, though some of its processes end after it."""
    directory = mkdtemp()
    try:
        yield directory
    finally:
        for _ in range(50):
            shutil.rmtree(directory, ignore_errors=True)
            if not Path(directory).exists():
                break
            time.sleep(0.1)


class Watch:
    """What the pages of one visitor did that no page of ours may do."""

    def __init__(self, origins: set[str]) -> None:
        self._origins = origins
        self.wrongs: list[str] = []

    def over(self, page: Page) -> None:
        page.on("dialog", self._on_dialog)
        page.on("pageerror", lambda error: self.wrongs.append(f"an error: {error}"))

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.wrongs.append(f"a dialog: {dialog.message}")
        await dialog.dismiss()

    def on_request(self, request: Request) -> None:
        if not request.url.startswith((*self._origins, "data:", "blob:")):
            self.wrongs.append(f"a request: {request.url}")

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and _LOST not in message.text:
            self.wrongs.append(f"an error: {message.text}")


@asynccontextmanager
async def visitor(browser: Browser, *origins: str, **options: Any) -> AsyncIterator[BrowserContext]:
    """A person with a browser of their own; in the end nothing went wrong in any of its pages."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(_PATIENCE_MS)
    expect.set_options(timeout=_PATIENCE_MS)
    watch = Watch(set(origins))
    context.on("page", watch.over)
    context.on("request", watch.on_request)
    context.on("console", watch.on_console)
    try:
        yield context
    finally:
        await context.close()
    assert watch.wrongs == [], watch.wrongs
