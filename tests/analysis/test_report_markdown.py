"""The Markdown of a report says the same, and nothing in it is markup that came from outside."""

from html.parser import HTMLParser

import pytest

from packflow_core.analysis.report import ReportContext, group_failures, render_markdown
from packflow_core.analysis.report_context import StageSummary
from packflow_core.analysis.report_markdown import Code, escape_markdown
from packflow_core.store.rows import crystal_columns

EVIL = "<img src=x onerror=\"alert('x')\"> ![a](http://x) | `b` **c**\n# d ```"


def ranked(k, crystal, **more):
    return {
        "rank": k, "candidate_id": f"c-{k:04d}", "lattice_energy_rel_kJ_mol": 0.5 * (k - 1),
        "space_group": "P2_1/c", "z_prime": 1.0, "cluster": k, "cluster_size": 1, "index": k,
        "representative": True, "status": "ok", **crystal_columns(crystal), **more,
    }  # fmt: skip


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_have_one_width_and_the_numbers_of_the_run(monoclinic):
    rows = [ranked(1, monoclinic, lattice_energy_kJ_mol=-99.96, space_group_agreement=0.5)]
    text = render_markdown(
        ReportContext(
            "urea", "NC(N)=O", rows=rows, stages=[StageSummary("generate", 9, 7, 0, 1, 1, 0.5)],
            trust=["Sample more."], command="csp run urea.yaml", spec="smiles: NC(N)=O\n",
        )
    )  # fmt: skip
    lines = text.splitlines()
    head = next(k for k, line in enumerate(lines) if line.startswith("| Rank"))
    assert len(cells(lines[head])) == len(cells(lines[head + 1])) == len(cells(lines[head + 2]))
    assert cells(lines[head + 2])[:6] == [
        "1", "`c-0001`", "0.00", "-100.0", f"{rows[0]['density_g_cm3']:.3f}",
        r"P2\_1/c \~",
    ]  # fmt: skip
    assert "| generate | 9 | 7 | 0 | 1 | 1 | 0.5 | – | – |" in lines
    assert "- Sample more." in lines
    assert "```\ncsp run urea.yaml\n```" in text
    assert "```\nsmiles: NC(N)=O\n```" in text
    assert "![Density against relative lattice energy](landscape.png)" in lines


def test_matches_below_the_cut_stay(monoclinic):
    rows = [
        ranked(k, monoclinic, matches_reference=k == 40, match_n=0, match_rmsd_A=0.2)
        for k in range(1, 50)
    ]
    text = render_markdown(ReportContext("t", "CCO", rows=rows), top=10)
    assert "`c-0040`" in text
    assert "`c-0010`" in text
    assert "`c-0011`" not in text


@pytest.mark.parametrize("text", ["plain", "a`b", "``x", "`", "x|y", "<b>"])
def test_code_is_fenced_by_more_backticks_than_it_holds(text):
    made = escape_markdown(Code(text))
    fence = made[: len(made) - len(made.lstrip("`"))]
    inside = made[len(fence) : -len(fence)]
    assert made.endswith(fence)
    assert fence not in inside
    assert inside.strip().replace("\\|", "|") == text


def test_everything_from_outside_is_escaped(monoclinic):
    evil = ranked(1, monoclinic, candidate_id=EVIL, space_group=EVIL)
    text = render_markdown(
        ReportContext(
            target=EVIL, smiles=EVIL, rows=[evil], campaign=EVIL, generator=EVIL, engine=EVIL,
            reference_label=EVIL, command=EVIL, versions={EVIL: EVIL}, provenance={EVIL: EVIL},
            notes=[EVIL], trust=[EVIL], spec=EVIL, finished=EVIL,
            stages=[StageSummary(EVIL, 1, 1, 0, 0, 0)],
            verification=[{"candidate_id": EVIL, "tight_status": EVIL}],
            failures=group_failures(
                EVIL, [{"status": EVIL, "reason": EVIL, "candidate_id": EVIL, "detail": EVIL}]
            ),
        ),
        landscape="",
    )  # fmt: skip
    renderer = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    page = Tags()
    page.feed(renderer.render(text))
    assert "img" not in page.tags
    assert "a" not in page.tags
    assert page.tags.count("h1") == 1
    assert page.tags.count("table") == 6
    assert page.tags.count("strong") == 0
    assert page.tags.count("pre") == 2


def test_an_empty_run():
    text = render_markdown(ReportContext("empty", "CCO"))
    assert "No candidate could be ranked" in text
    assert "No stage was recorded." in text
    assert "landscape" not in text
