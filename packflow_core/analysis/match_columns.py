"""A match with the reference as columns of the rank table."""

from __future__ import annotations

from typing import Any

from packflow_core.analysis.matching import MatchReport

#: Columns of a candidate that was not compared with a reference.
UNMATCHED: dict[str, Any] = dict.fromkeys(
    (
        "match_rmsd_A", "match_n", "matches_reference", "match_rmsd20_A", "match_n20",
        "match_rmsd30_A", "match_n30", "match_rmsd1_A", "match_kinds", "match_kinds_found",
        "match_form", "match_form_rmsd_A", "match_density_percent", "match_pdd_A",
        "match_structure_matcher_A", "match_criteria",
    )
)  # fmt: skip


def match_columns(report: MatchReport) -> dict[str, Any]:
    """Columns of a comparison; those without a number in their name are of the smallest cluster."""
    first, form = report.first, report.form
    columns = {
        **UNMATCHED,
        "match_rmsd_A": first.rmsd,
        "match_n": first.n_matched,
        "matches_reference": first.full,
        "match_rmsd1_A": report.rmsd1,
        "match_density_percent": report.density_percent,
        "match_pdd_A": report.pdd_A,
        "match_structure_matcher_A": report.structure_matcher_A,
        "match_criteria": " ".join(report.criteria),
    }
    for n in (20, 30):
        if n in report.shells:
            columns[f"match_rmsd{n}_A"] = report.shells[n].rmsd
            columns[f"match_n{n}"] = report.shells[n].n_matched
    if form is not None:
        columns |= {
            "match_kinds": form.kinds,
            "match_kinds_found": form.kinds_found,
            "match_form": form.same,
            "match_form_rmsd_A": form.rmsd,
        }
    return columns
