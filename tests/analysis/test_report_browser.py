"""The report in a real browser whose network is cut: silent, complete, usable, harmless."""

import os
import shutil
from contextlib import contextmanager

import pytest

from packflow_core.analysis.report import ReportContext, write_report
from packflow_core.store.rows import crystal_columns

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium with a WebGL that needs no graphics card; CHROMIUM names another one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here; install it, or name it in CHROMIUM")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader",
            ],
        )  # fmt: skip
        yield browser
        browser.close()


@contextmanager
def opened(browser, path, **options):
    """The page of a file without a network; nothing may go wrong, and nothing may be asked for."""
    context = browser.new_context(
        offline=True, viewport={"width": 1366, "height": 768}, reduced_motion="reduce", **options
    )
    page = context.new_page()
    wrong = []
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else 0,
    )
    page.goto(path.as_uri())
    yield page
    assert wrong == []
    context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory, triclinic, monoclinic, molecule):
    """60 structures, two of them hostile, the last a duplicate of the first."""
    rows = [
        {
            "rank": k, "candidate_id": f"c-{k}" if k not in (3, 4) else f"{EVIL}{k}", "index": k,
            "lattice_energy_rel_kJ_mol": 0.5 * (k - 1), "lattice_energy_kJ_mol": -90.0 + 0.5 * k,
            "space_group": EVIL if k == 3 else "P2_1/c", "z_prime": 1.0,
            "cluster": 1 if k == 60 else k, "cluster_size": 2 if k in (1, 60) else 1,
            "representative": k != 60, "status": "ok",
            **crystal_columns(monoclinic if k % 2 else triclinic),
        }
        for k in range(1, 61)
    ]  # fmt: skip
    for k, row in enumerate(rows):
        row["density_g_cm3"] = 1.2 + 0.003 * k
    context = ReportContext(
        EVIL, molecule.smiles, rows=rows, command=EVIL, notes=[EVIL], trust=[EVIL], n_pictures=2
    )
    return write_report(tmp_path_factory.mktemp("report") / "report.html", context)


def centre(page, number):
    """Where on the screen a point of the landscape is, by its place in the order of rank."""
    page.locator("svg.landscape").scroll_into_view_if_needed()
    return page.evaluate(
        """(k) => {
          const data = JSON.parse(document.getElementById('report-data').textContent).points;
          const svg = document.querySelector('svg.landscape'), box = svg.getBoundingClientRect();
          const scale = box.width / svg.viewBox.baseVal.width;
          return [box.left + data.x[k] * scale, box.top + data.y[k] * scale];
        }""",
        number,
    )


def test_it_opens_without_a_network_and_turns_the_crystals(chromium, report):
    with opened(chromium, report) as page:
        for k, atoms in enumerate(("72", "36")):
            page.locator("figure").nth(k).scroll_into_view_if_needed()
            viewer = page.locator(f"figure >> nth={k} >> .viewer")
            page.wait_for_selector(f"figure >> nth={k} >> .viewer[data-atoms='{atoms}']")
            assert not page.locator(f"figure >> nth={k} >> .flat").is_visible()
        before = viewer.screenshot()
        viewer.focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(100)
        assert viewer.screenshot() != before
        assert page.title() == f"{EVIL}: crystal structure prediction"
        assert page.locator("main img").count() == 0
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        # Paper shows the flat pictures.
        page.emulate_media(media="print")
        assert page.locator("figure >> nth=0 >> .flat").is_visible()
        assert not page.locator(".viewer").first.is_visible()
        assert page.pdf(format="A4").startswith(b"%PDF")


def test_points_are_named_and_lead_to_their_lines(chromium, report):
    with opened(chromium, report) as page:
        page.mouse.move(*centre(page, 6))
        assert page.inner_text("#tip").splitlines()[:3] == [
            "Rank 7", "c-7", "3.00 kJ/mol (lattice energy -86.5)",
        ]  # fmt: skip
        page.mouse.click(*centre(page, 6))
        assert page.locator("tr.chosen code").all_inner_texts() == ["c-7"]
        page.wait_for_function(
            "() => { const b = document.querySelector('tr.chosen').getBoundingClientRect();"
            " return b.top >= 0 && b.bottom <= innerHeight; }"
        )
        # A hostile name is text, in the tip too.
        page.mouse.move(*centre(page, 2))
        assert page.inner_text("#tip").splitlines()[1] == f"{EVIL}3"
        assert page.locator("#tip img").count() == 0
        # A duplicate leads to the line of its cluster, what is not listed is told.
        page.mouse.click(*centre(page, 59))
        assert page.locator("tr.chosen code").all_inner_texts() == ["c-1"]
        assert "c-60 is a duplicate" in page.inner_text("#said")
        page.mouse.click(*centre(page, 57))
        assert page.locator("tr.chosen").count() == 0
        assert "c-58" in page.inner_text("#said")
        # The same from the keyboard.
        page.locator("svg.landscape").focus()
        page.keyboard.press("Escape")
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown"):
            page.keyboard.press(key)
        assert page.inner_text("#tip b") == "Rank 2"
        page.keyboard.press("Enter")
        assert page.locator("tr.chosen code").all_inner_texts() == ["c-2"]
        page.keyboard.press("Escape")
        assert page.locator("tr.chosen").count() == 0
        assert not page.locator("#tip").is_visible()
        page.locator("a.to-point", has_text="c-9").focus()
        page.keyboard.press("Enter")
        assert page.inner_text("#tip b") == "Rank 9"
        assert page.title() == f"{EVIL}: crystal structure prediction"


def test_without_a_script_everything_but_the_turning_is_there(chromium, report):
    with opened(chromium, report, java_script_enabled=False) as page:
        assert page.locator("figure .flat").first.is_visible()
        assert page.locator("svg.landscape path").count() > 5
        assert page.locator("tr[data-id]").count() == 50
