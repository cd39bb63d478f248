"""A real browser for tests of pages: the system's Chromium, without a window and a network.

`open_page(folder)` gives the index.html of a folder in a page of Playwright. After the test nothing
may have been asked for but files, and no script may have failed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_LOCAL = ("file:", "data:", "blob:", "about:")
WIDTHS = (360, 768, 1280)
# For what takes seconds: the middle one, which differs least, with the slow tests.
SOME_WIDTHS = (WIDTHS[0], pytest.param(WIDTHS[1], marks=pytest.mark.slow), WIDTHS[2])

OpenPage = Callable[..., "Page"]


# Of a module, not of the session: while it is there, no other test can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser, begun once for the tests of a file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(_PROGRAMS)} is installed")
    options = ["--disable-gpu"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--no-sandbox")  # which root cannot have
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=program, headless=True, args=options)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """open_page(folder, **options of a context) -> its page, loaded from file://."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_it(folder: Path, **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        context.on("request", lambda request: note_request(request.url))
        context.on("weberror", lambda error: wrong.append(f"script: {error.error}"))
        context.on("console", lambda message: note_message(message.type, message.text))
        page: Page = context.new_page()
        page.set_default_timeout(10_000)
        page.goto((folder / "index.html").as_uri())
        return page

    def note_request(url: str) -> None:
        if not url.startswith(_LOCAL):
            wrong.append(f"network: {url}")

    def note_message(kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            wrong.append(f"{kind}: {text}")

    yield open_it
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


def findings(page: Page) -> list[str]:
    """What axe-core finds serious or critical on a page, a line each."""
    # What is still to be laid out has no place yet, and would be taken to lie over something else.
    page.add_style_tag(content="* { content-visibility: visible !important; }")
    page.evaluate((Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js").read_text("utf-8"))
    violations = page.evaluate("axe.run({preload: false}).then((found) => found.violations)")
    return [
        f"{each['impact']}: {each['id']}: {node['html'][:200]}"
        for each in violations
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than the window."""
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return bool(wide)
