"""Synthetic stores and a real browser."""

import os
import shutil

import pytest
from synthetic_campaign import write_campaign

pytest.importorskip("dash", reason="needs the extra dashboard")

#: Where Debian and others put Chromium; CHROMIUM names another one.
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A finished run of 400 candidates in several parts; read only."""
    return write_campaign(tmp_path_factory.mktemp("small") / "c" / "urea" / "random", 400, part=90)


@pytest.fixture
def copy(small, tmp_path):
    """The small run in a folder of its own, to be changed."""
    return shutil.copytree(small, tmp_path / "c" / "urea" / "random")


@pytest.fixture
def open_store():
    """A store over folders, with its first look taken."""
    from dashboard.settings import Settings
    from dashboard.store import Store

    def make(*roots, **settings):
        store = Store(Settings(tuple(roots), **settings))
        store.refresh()
        return store

    return make


# Not for the session: while Playwright is open, Prefect takes this thread for one of an event loop.
@pytest.fixture(scope="module")
def browser():
    """Headless Chromium with a WebGL that needs no graphics card."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here; install it, or name it in CHROMIUM")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader",
            ],
        )  # fmt: skip
        yield chromium
        chromium.close()
