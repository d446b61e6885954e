"""The pages in a real browser, over a campaign of 10,000 candidates beside smaller ones."""

import re
import shutil
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
from serving import served
from synthetic_campaign import rewrite, write_campaign

from dashboard.app import PAGES
from dashboard.landscape import make_landscape
from dashboard.targets import target_id
from packflow_core.stages.run_store import RunStore

EVIL = "<img src=x onerror=\"document.title='owned'\">"
LAPTOP = {"width": 1366, "height": 768}

#: Screen position of the point that is farthest from the others, and its number.
LONELY = """() => {
  const plot = document.querySelector('#t-graph .js-plotly-plot'), layout = plot._fullLayout;
  const box = plot.getBoundingClientRect(), points = [];
  plot._fullData.forEach((trace) => {
    for (let i = 0; trace.customdata && i < trace.x.length; i++) {
      points.push({
        x: box.left + layout._size.l + layout.xaxis.d2p(trace.x[i]),
        y: box.top + layout._size.t + layout.yaxis.d2p(trace.y[i]),
        code: trace.customdata[i],
      });
    }
  });
  let best = null;
  points.forEach((p) => {
    let nearest = Infinity;
    points.forEach((q) => {
      if (q.code !== p.code) nearest = Math.min(nearest, Math.hypot(p.x - q.x, p.y - q.y));
    });
    if (!best || nearest > best.nearest) best = Object.assign({ nearest: nearest }, p);
  });
  return best;
}"""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A run of 10,000, a small one of another generator, one at work, one that is broken."""
    root = tmp_path_factory.mktemp("campaign")
    write_campaign(root / "big" / "urea" / "random", 10_000, campaign="big")
    write_campaign(
        root / "big" / "urea" / "packed", 300, campaign="big", generator="random+press", seed=2,
        shift=4.0,
    )  # fmt: skip
    half = write_campaign(root / "half" / "other" / "random", 60, name="other", stop=("relax", 0.5))
    rewrite(half, "generate", 1, candidate_id=EVIL)
    for stage in ("hydrogenate", "relax_h", "relax"):
        rewrite(half, stage, 1, candidate_id=EVIL)
    rewrite(half, "relax", 1, status="failed", reason="engine_error", detail=EVIL)
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text(EVIL)
    return root


@pytest.fixture(scope="module")
def address(campaign):
    with served(campaign, allow_actions=True, prefect_url="http://127.0.0.1:1/api") as url:
        yield url


@contextmanager
def opened(browser, scheme="light"):
    """A page that notes whatever goes wrong in it, and refuses every other host."""
    context = browser.new_context(viewport=LAPTOP, color_scheme=scheme)
    context.set_default_timeout(120_000)  # a busy machine
    page = context.new_page()
    page.wrong = []
    page.on(
        "console", lambda m: page.wrong.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: page.wrong.append(str(error)))

    def check(route):
        if route.request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            route.continue_()
        else:
            page.wrong.append(f"asked for {route.request.url}")
            route.abort()

    context.route("**/*", check)
    try:
        yield page
    finally:
        context.close()


def settled(page):
    """Wait until Dash has answered everything."""
    page.wait_for_function("() => !document.querySelector('[data-dash-is-loading=\"true\"]')")
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_loads_without_a_complaint(browser, address, scheme):
    with opened(browser, scheme) as page:
        for place, (title, _) in PAGES.items():
            page.goto(address + place)
            page.wait_for_selector("#page > *")
            page.wait_for_selector(f"#menu a[aria-current=page]:text-is('{title}')")
            if place != "/failures":
                page.wait_for_selector(".js-plotly-plot .main-svg")
            assert page.evaluate("document.documentElement.dataset.theme") == scheme
            # Nothing sticks out to the right on a laptop.
            assert page.evaluate("document.documentElement.scrollWidth") <= LAPTOP["width"]
            assert page.title() == "packflow-csp"
        assert page.wrong == []


def test_a_click_on_a_point_shows_its_crystal(browser, address, campaign, open_store):
    views = open_store(campaign / "big").runs()
    big = next(view for view in views if view.n == 10_000)
    with opened(browser) as page:
        page.goto(f"{address}/target?target={target_id(big)}")
        page.wait_for_selector("#t-graph .main-svg")
        page.wait_for_function(
            "() => (document.querySelector('#t-graph .js-plotly-plot')._fullData || [])"
            ".some((trace) => trace.x && trace.x.length > 100)"
        )
        point = page.evaluate(LONELY)
        page.mouse.move(point["x"], point["y"])
        page.wait_for_selector("#t-graph .hoverlayer .hovertext")
        page.mouse.click(point["x"], point["y"])
        page.wait_for_selector("#t-viewer[data-candidate]")
        link = page.get_by_text("Download CIF").get_attribute("href")
        run, index = re.fullmatch(r"/cif/([0-9a-f]+)/rank/([0-9]+)\.cif", link).groups()
        view = next(view for view in views if view.id == run)
        assert int(point["code"]) % 1_000_000 == int(index)
        (row,) = view.store.stage("rank").rows([int(index)])
        shown = page.evaluate("() => ({...document.getElementById('t-viewer').dataset})")
        assert shown == {"candidate": row["candidate_id"], "atoms": str(row["n_atoms"])}
        assert page.inner_text("#t-heading") == row["candidate_id"]
        for place, atoms in ((1, 8 * row["n_atoms"]), (2, row["n_atoms"] // 2)):
            page.locator("#t-mode label").nth(place).click()
            page.wait_for_selector(f"#t-viewer[data-atoms='{atoms}']")
        page.locator("#t-mode label").nth(3).click()
        page.wait_for_function(
            "() => /molecules match/.test(document.getElementById('t-viewer-note').textContent)"
        )
        with page.expect_download() as download:
            page.get_by_text("Download CIF").click()
        text = download.value.path().read_text()
        assert f"data_{row['candidate_id']}" in text
        assert page.wrong == []


def test_the_keyboard_reaches_candidates_and_turns_the_crystal(
    browser, address, campaign, open_store
):
    views = open_store(campaign / "big").runs()
    frame = make_landscape(views).frame
    with opened(browser, "dark") as page:
        page.goto(f"{address}/target?target={target_id(views[0])}")
        page.wait_for_selector("#t-list button.link")
        page.locator("#t-list button.link").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#t-viewer[data-candidate]")
        lowest = f"urea-z2-{int(frame['index'].iloc[0]):06d}"
        assert page.inner_text("#t-heading") == lowest
        page.locator("#t-next").focus()
        page.keyboard.press("Enter")
        second = f"urea-z2-{int(frame['index'].iloc[1]):06d}"
        page.wait_for_selector(f"#t-viewer[data-candidate='{second}']")
        before = page.locator("#t-viewer canvas").first.screenshot()
        page.locator("#t-viewer").focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(100)
        assert page.locator("#t-viewer canvas").first.screenshot() != before
        assert page.wrong == []


def test_names_and_details_from_files_are_text_and_refusals_are_said(browser, address):
    with opened(browser) as page:
        page.goto(f"{address}/failures")
        page.wait_for_selector("#f-groups button.link")
        # The group of the hostile candidate: engine_error in the run that is half done.
        row = page.locator("#f-groups tr", has_text="other").filter(has_text="engine_error")
        row.locator("button").click()
        page.wait_for_function(
            "() => document.querySelector('#f-list').textContent.includes('<img')"
        )
        page.locator("#f-list button.link", has_text="<img").click()
        page.wait_for_selector("#f-viewer[data-candidate]")
        assert page.inner_text("#f-heading") == EVIL
        assert page.get_attribute("#f-viewer", "data-atoms") == "16"
        assert page.title() == "packflow-csp"
        assert page.locator("#page img").count() == 0
        page.locator("#f-requeue").click()
        page.wait_for_function("() => document.querySelector('#f-answer').textContent.length > 0")
        assert "http://127.0.0.1:1/api did not take it" in page.inner_text("#f-answer")
        page.goto(address)
        page.wait_for_selector("#c-problems li")
        assert "run.json is damaged" in page.inner_text("#c-problems")
        assert page.title() == "packflow-csp"
        assert page.wrong == []


def test_a_read_only_page_has_no_buttons_and_refreshes_by_itself(browser, campaign, tmp_path):
    root = shutil.copytree(campaign / "half", tmp_path / "half")
    with served(root, refresh_s=0.5) as url, opened(browser) as page:
        page.goto(f"{url}/failures")
        page.wait_for_selector("#f-groups button.link")
        assert not page.locator("#f-requeue").is_visible()
        assert "read only" in page.inner_text("header")
        page.goto(url)
        run = RunStore(root / "other" / "random")
        done = len(run.attempts("relax"))
        page.wait_for_selector(f"#c-stages tr:has-text('relax'):has-text('{done}')")
        stage = run.stage("relax").folder
        table = pq.read_table(next(iter(stage.glob("part-*.parquet"))))
        moved = table.set_column(1, table.schema.field(1), [np.arange(len(table)) + 40])
        pq.write_table(moved.slice(0, 9), stage / "part-00000040-00000048-new.parquet")
        expected = len(run.attempts("relax"))
        assert expected > done
        page.wait_for_function(
            "(n) => Array.from(document.querySelectorAll('#c-stages tr')).some((row) =>"
            " row.cells[0].textContent === 'relax' && row.cells[2].textContent === String(n))",
            arg=expected,
        )
        assert page.wrong == []


def test_the_theme_is_switched_and_kept(browser, address):
    with opened(browser) as page:
        page.goto(address)
        page.wait_for_selector("#theme-toggle")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme-toggle")
        page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        page.reload()
        page.wait_for_selector("#page > *")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.wrong == []


def test_an_empty_folder_says_what_to_do(browser, tmp_path):
    with served(tmp_path) as url, opened(browser) as page:
        for place in reversed(PAGES):
            page.goto(url + place)
            page.wait_for_selector("#page .empty")
        assert "csp run" in page.inner_text("#page .empty")
        assert page.wrong == []


def test_a_part_that_breaks_is_one_line(browser, small, monkeypatch):
    from dashboard.pages import target

    def broken(*_):
        raise ValueError(EVIL)

    monkeypatch.setattr(target, "make_landscape", broken)
    with served(small) as url, opened(browser) as page:
        page.goto(f"{url}/target")
        page.get_by_text("A part of this page could not be made: ValueError").wait_for()
        assert page.title() == "packflow-csp"
        assert page.locator("#page img").count() == 0
        page.goto(url)
        page.wait_for_selector("#c-runs tbody tr")
