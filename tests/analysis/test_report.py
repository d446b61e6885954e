"""The report is self-contained, escaped and says what the run was."""

import base64
import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from packflow_core.analysis import report
from packflow_core.analysis.pictures import molecule_svg, packing_svg
from packflow_core.analysis.report import (
    ReportContext,
    StageSummary,
    group_failures,
    render_report,
    summarise_stage,
    write_report,
)
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.store.rows import crystal_columns

EVIL = """<img src=x onerror="document.title='owned'"></script><script>owned()</script>"""
VOID = {
    "meta",
    "img",
    "source",
    "br",
    "link",
    "hr",
    "input",
    "circle",
    "line",
    "path",
    "polygon",
    "rect",
}


class Page(HTMLParser):
    """Checks nesting and collects tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words, self.scripts = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.words).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def row(k, crystal, **more):
    return {
        "rank": k, "candidate_id": f"c-{k:04d}", "lattice_energy_rel_kJ_mol": 0.5 * (k - 1),
        "space_group": "P2_1/c", "z_prime": 1.0, "cluster": k, "cluster_size": 1, "index": k,
        "representative": True, "match_rmsd_A": None, "match_n": None, "status": "ok",
        "matches_reference": None, "reason": "", "detail": "", **crystal_columns(crystal), **more,
    }  # fmt: skip


@pytest.fixture
def context(molecule, monoclinic, triclinic):
    rows = [row(1, triclinic, matches_reference=False, match_n=4)]
    rows.append(row(2, monoclinic, matches_reference=True, match_n=15, match_rmsd_A=0.2))
    return ReportContext(
        target="Target I",
        smiles=molecule.smiles,
        rows=rows,
        stages=[StageSummary("generate", 9, 7, 0, 1, 1, 0.5, 2.0, 4.5)],
        failures=group_failures(
            "relax", [{"status": "failed", "reason": "timeout", "candidate_id": "c-9"}]
        ),
        z=(2, 4),
        generator="packflow-open",
        checkpoint_hash="ab" * 32,
        engine="gfnff/mcgfnff2023 (gfnff 0.3.1)",
        seed=3,
        reference_label="form.cif",
        reference_density=1.31,
        command="csp run 'CCO' --seed 3",
        versions={"torch": "2.13.0"},
        provenance={"host": "here"},
        wall_s=512.0,
    )


def test_report_says_everything(tmp_path, context):
    path = write_report(tmp_path / "report.html", context)
    page = Page(path.read_text(encoding="utf-8"))
    for phrase in (
        "Target I", context.smiles, "packflow-open", "gfnff/mcgfnff2023 (gfnff 0.3.1)",
        "2, 4", "csp run 'CCO' --seed 3", "2.13.0", "ab" * 32, "c-0002", "yes 0.20", "timeout",
        "rank of the match, 0.50 kJ/mol", "mcGFN-FF", "8 min 32 s", "form.cif (1.310 g/cm³)",
        "generate 9 7 0 1 1",
    ):  # fmt: skip
        assert phrase in page.text, phrase
    assert page.tags.count("figure") == 2
    assert page.tags.count("h1") == 1


def test_nothing_is_fetched_from_anywhere(context):
    page = Page(render_report(context))
    links = [v for k, v in page.attributes if k in ("src", "srcset", "href", "data", "action")]
    assert set(links) == {"#landscape"}
    assert "link" not in page.tags
    assert "iframe" not in page.tags
    own = " ".join(page.words + [s for s in page.scripts if not s.startswith("/*! For license")])
    assert "@import" not in own
    assert "url(" not in own
    assert set(re.findall(r"https?://[^\s\"'<>]+", own)) == set()


def test_only_the_scripts_of_this_package_may_run(context):
    page = Page(render_report(context))
    policies = [v for k, v in page.attributes if k == "content" and "default-src" in v]
    assert len(policies) == 1
    data, *code = page.scripts
    assert "c-0002" in data
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in code]
    allowed = policies[0].split("script-src ")[1].split()
    assert allowed == [f"'sha256-{value}'" for value in hashes]
    assert "unsafe" not in policies[0].split("script-src")[1]


def test_everything_from_outside_is_escaped(context, triclinic):
    evil = row(1, triclinic, candidate_id=EVIL, space_group=EVIL)
    html = render_report(
        ReportContext(
            target=EVIL,
            smiles=EVIL,
            rows=[evil],
            failures=group_failures(
                EVIL, [{"status": EVIL, "reason": EVIL, "candidate_id": EVIL, "detail": EVIL}]
            ),
            stages=[StageSummary(EVIL, 1, 1, 0, 0, 0)],
            campaign=EVIL,
            generator=EVIL,
            checkpoint_hash=EVIL,
            engine=EVIL,
            reference_label=EVIL,
            command=EVIL,
            versions={EVIL: EVIL},
            provenance={EVIL: EVIL},
            finished=EVIL,
            notes=[EVIL],
            trust=[EVIL],
            spec=EVIL,
            verification=[{"candidate_id": EVIL, "tight_status": EVIL, "energy_problem": EVIL}],
            pxrd=[{**evil, "start_deg": 3.0, "step_deg": 0.5, "intensity": [0.0, 9.0, 100.0]}],
        )
    )
    page = Page(html)
    assert "img" not in page.tags
    assert page.tags.count("script") == 3
    assert not any("owned" in script for script in page.scripts[1:])
    assert html.count("&lt;img") >= 15
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert json.loads(page.scripts[0])["points"]["id"] == [EVIL]


def test_an_empty_run_has_a_report():
    page = Page(render_report(ReportContext("empty", "CCO")))
    assert "No candidate could be ranked" in page.text
    assert "No stage was recorded" in page.text
    assert "figure" not in page.tags
    assert "script" not in page.tags


def test_a_match_below_the_table_is_still_listed(context, triclinic):
    rows = [row(k, triclinic, matches_reference=k == 40, match_n=0) for k in range(1, 60)]
    html = render_report(ReportContext("t", "CCO", rows=rows, top=10, n_pictures=0))
    text = Page(html).text
    assert "c-0040" in text
    assert "c-0011" not in text
    assert "The best 10 of 59 distinct structures" in text


def test_measures_that_a_row_knows_are_shown(context, triclinic):
    known = row(
        1, triclinic, lattice_energy_kJ_mol=-101.26, space_group_agreement=0.5, match_n=15,
        space_group_tight="P1", space_group_loose="P-1", space_group="P-1", matches_reference=True,
        match_rmsd_A=0.214, match_rmsd1_A=0.055, match_rmsd30_A=0.317, match_density_percent=1.26,
    )  # fmt: skip
    html = render_report(ReportContext("t", "CCO", rows=[known]))
    text = Page(html).text
    assert "-101.3" in text
    assert "yes 0.21 0.06 0.32 +1.3 %" in text
    assert 'title="P1 at the tightest tolerance, P-1 at the loosest">~</abbr>' in html
    assert "with a lattice energy of -101.3 kJ/mol" in text
    assert "The reference was found: rank 1, 0.00 kJ/mol above the lowest (RMSD 0.21 Å)." in text
    plain = Page(render_report(ReportContext("t", "CCO", rows=[row(1, triclinic)]))).text
    assert "E(latt) kJ" not in plain
    assert "Conformer RMSD" not in plain


def test_the_guards_and_their_sentences_are_shown():
    verified = {
        "rank": 2, "candidate_id": "c-7", "lattice_energy_rel_kJ_mol": 0.5, "rank_best": 1,
        "energy_spread_kJ_mol": 1.234, "rank_worst": 3, "tight_status": "ok",
        "tight_change_kJ_mol": -0.119, "tight_volume_change_percent": 0.34,
    }  # fmt: skip
    context = ReportContext("t", "CCO", verification=[verified], trust=["Sample more."])
    text = Page(render_report(context)).text
    assert "2 c-7 0.50 1.23 1 to 3 ok -0.12 +0.3" in text
    assert text.count("Sample more.") == 1


def test_the_match_is_drawn_wherever_it_stands(triclinic):
    rows = [row(k, triclinic, matches_reference=k == 9, match_n=0) for k in range(1, 12)]
    page = Page(render_report(ReportContext("t", "CCO", rows=rows, n_pictures=3)))
    assert page.tags.count("figure") == 3
    views = json.loads(page.scripts[0])["views"]
    assert len(views) == 3
    assert len(views[0]["elements"]) == len(triclinic)
    size = len(triclinic) // triclinic.z
    assert all(i // size == j // size for i, j in views[0]["bonds"])
    assert len(views[0]["bonds"]) == len(triclinic)  # one ring in each molecule
    assert re.search(r"<b>Rank 9</b>.*match", " ".join(render_report(
        ReportContext("t", "CCO", rows=rows, n_pictures=3)).split("<figcaption>")))  # fmt: skip


def test_stage_summary_counts_and_times():
    rows = [
        {"status": s, "wall_s": w}
        for s, w in [("ok", 1.0), ("ok", 3.0), ("failed", 8.0), ("rejected", None)]
    ]
    found = summarise_stage("relax", rows)
    assert (found.attempted, found.ok, found.failed, found.rejected, found.unconverged) == (
        4, 2, 1, 1, 0,
    )  # fmt: skip
    assert (found.median_s, found.max_s, found.total_s) == (3.0, 8.0, 12.0)
    assert summarise_stage("relax", []).median_s is None


def test_failures_are_grouped_worst_first():
    rows = [
        {"status": "ok", "reason": "", "candidate_id": "a", "index": 0},
        {"status": "failed", "reason": "nan", "candidate_id": "b", "index": 1},
        {"status": "rejected", "reason": "clash", "candidate_id": "d", "index": 3, "detail": "x"},
        {"status": "rejected", "reason": "clash", "candidate_id": "c", "index": 2, "detail": "y"},
    ]
    found = group_failures("relax", rows)
    assert [(g.reason, g.count, g.example_id, g.example_detail) for g in found] == [
        ("clash", 2, "c", "y"),
        ("nan", 1, "b", ""),
    ]


def test_molecule_drawing_follows_the_page_colour():
    svg = molecule_svg(Molecule.from_smiles("OCc1ccncc1"))
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "#000000" not in svg


def test_packing_picture_shows_whole_molecules_and_the_cell(triclinic):
    svg = packing_svg(triclinic)
    assert svg.count("<polygon") == 1
    # Each bond is two half lines; nothing is bonded across molecules.
    atoms, halves = svg.count("<circle"), svg.count("<line")
    assert atoms % 10 == 0
    assert atoms >= 20
    assert halves == 2 * atoms  # ten heavy atoms and ten bonds in a one-ring molecule
    with_h = packing_svg(triclinic, hydrogens=True)
    assert with_h.count("<circle") == atoms * 18 // 10


def test_packing_picture_of_one_atom_per_cell():
    svg = packing_svg(Crystal([6], [[0.5, 0.5, 0.5]], [[4, 0, 0], [0, 4, 0], [0, 0, 4]]))
    assert svg.count("<circle") == 1
    assert "nan" not in svg


def test_the_viewer_is_the_one_of_the_dashboard():
    templates = Path(report.__file__).parent / "templates"
    ours = (templates / "3Dmol-min.js").read_bytes()
    theirs = Path(__file__).parents[2] / "dashboard" / "assets" / "3Dmol-min.js"
    assert ours == theirs.read_bytes()
    assert b"</script" not in ours
    assert "BSD-3-Clause" in (templates / "3Dmol-LICENSE.txt").read_text()
