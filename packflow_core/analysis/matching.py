"""Is a crystal the experiment: every measure of a match in use, side by side.

| measure | what it asks | source |
|---|---|---|
| RMSD15, RMSD20, RMSD30 | a cluster of N molecules of the reference laid over the crystal: how many fit, and how well | COMPACK: Chisholm and Motherwell, J. Appl. Cryst. 38, 228 (2005); N as in the reports on the blind tests and in FastCSP |
| RMSD1 | the same for one molecule: the conformer | as above |
| the same form | clusters of 20 around every kind of molecule, of both crystals | ours |
| PDD | distance of the pointwise distance distributions | Widdowson and Kurlin, NeurIPS 2022 |
| StructureMatcher | the unit cells laid over each other | pymatgen |

`Criteria` turns them into the yes and no of the literature. COMPACK itself needs a licence of the CSD;
`oxtalign` and `overlay` stand for it here. Both call a molecule of the cluster matched by its RMSD
(below 1 Å), where COMPACK has tolerances for distances and angles, so numbers of matched molecules
near the edge may differ from COMPACK's.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from packflow_core.analysis.overlay import OverlayCrystal, overlays
from packflow_core.analysis.pdd import pdd, pdd_distance
from packflow_core.analysis.similarity import (
    MOLECULE_TOLERANCE_A,
    Match,
    Packing,
    matches,
    structure_matcher_rms,
)
from packflow_core.chem.elements import VDW_RADII
from packflow_core.crystal.contacts import intermolecular_pairs
from packflow_core.crystal.crystal import Crystal

SHELLS = (15, 20, 30)
#: Molecules of the clusters that decide whether two crystals are the same form.
FORM_SHELL = 20
#: Largest RMSD of these clusters, Å. Of 69 pairs of computed structures of one polymorph the worst
#: has 0.56; the first false pair that nothing else rules out has 0.63 (benchmarks/twin_test.py).
FORM_RMSD_A = 0.6
#: A cluster is worth a look at the unit cells when this share of its molecules fits.
PARTIAL = 0.5

#: Clash of OXtal's evaluation: heavy atoms of two molecules this much closer than their van der
#: Waals radii, Å.
CLASH_OVERLAP_A = 0.7
#: OXtal's limit of RMSD1 for a recovered conformer, Å.
CONFORMER_RMSD_A = 0.5
#: OXtal's limit of RMSD15 for a solved crystal, Å.
SOLVED_RMSD_A = 2.0

#: Rows that symmetry would make equal differ by about this much in relaxed crystals, Å.
_MERGE_A = 0.01


class Reference:
    """A crystal that others are matched with, prepared once.

    Args:
        crystal: molecules whole, atoms molecule by molecule; hydrogens may be missing.

    Attributes:
        crystal: as given.
        packing: for `oxtalign`.
        problem: why nothing can be compared with it; empty where it can.
    """

    def __init__(self, crystal: Crystal) -> None:
        self.crystal = crystal
        self.packing = Packing(crystal)
        self.problem = self.packing.problem
        self._heavy = crystal.heavy_only()
        self.volume = crystal.volume / crystal.z
        self.overlay = _overlay_crystal(crystal)
        self.pdd = None if self.problem else pdd(self._heavy, merge=_MERGE_A)


@dataclass(frozen=True)
class FormMatch:
    """Whether two crystals are the same form.

    Attributes:
        kinds: molecules of the reference with different surroundings.
        kinds_found: those of them whose clusters fit into the crystal whole.
        n_matched: molecules of the worst cluster that fit, of either crystal.
        n_total: molecules of a cluster.
        rmsd: of that cluster, heavy atoms, Å; None where nothing fits.
    """

    kinds: int
    kinds_found: int
    n_matched: int
    n_total: int
    rmsd: float | None

    @property
    def same(self) -> bool:
        """All clusters of both crystals fit, within `FORM_RMSD_A`."""
        return self.n_matched == self.n_total and self.rmsd is not None and self.rmsd <= FORM_RMSD_A


@dataclass(frozen=True)
class MatchReport:
    """A crystal compared with a reference.

    Attributes:
        shells: RMSD_N by N; larger clusters are only compared where the smaller one fits whole,
            and are missing otherwise.
        rmsd1: of the conformer, heavy atoms, either hand, Å; None where the molecules differ.
        form: whether they are the same form; None where the molecules cannot be told apart atom by
            atom (more than 192 symmetries of the graph, or other bonds).
        density_percent: how much denser it is than the reference, for equal molecules.
        pdd_A: distance of the PDDs by element, heavy atoms, Å; None where the compositions differ.
        structure_matcher_A: RMS displacement of pymatgen's StructureMatcher, Å; None for no match,
            or not asked.
        overlap_A: how much the closest heavy atoms of two of its molecules overlap, Å; 0 for none.
        detail: why nothing could be compared.
    """

    shells: dict[int, Match]
    rmsd1: float | None
    form: FormMatch | None
    density_percent: float
    pdd_A: float | None
    structure_matcher_A: float | None
    overlap_A: float
    detail: str = ""

    @property
    def first(self) -> Match:
        """The match of the smallest cluster."""
        return self.shells[min(self.shells)]

    @property
    def criteria(self) -> list[str]:
        """Names of the criteria that are met, see `CRITERIA`."""
        return [name for name, (_, met) in CRITERIA.items() if met(self)]


def match_report(
    crystal: Crystal,
    reference: Reference,
    *,
    shells: Sequence[int] = SHELLS,
    molecule_tolerance: float = MOLECULE_TOLERANCE_A,
    timeout_s: float | None = 60.0,
    thorough: bool = False,
) -> MatchReport:
    """Compare a crystal with a reference by all measures.

    Nothing is raised for an odd crystal: what cannot be compared does not match, and `detail` says
    why.

    Args:
        crystal: the candidate.
        reference: what it may be.
        shells: molecules in the clusters.
        molecule_tolerance: a molecule of a cluster fits below this RMSD, Å.
        timeout_s: time limit of one comparison of clusters by `oxtalign`, s.
        thorough: ask StructureMatcher, and compare every cluster, where the smallest does not
            match, too.
    """
    packing = Packing(crystal)
    found: dict[int, Match] = {}
    for n in sorted(shells):
        found[n] = matches(
            packing, reference.packing, n=n, molecule_tolerance=molecule_tolerance,
            timeout_s=timeout_s,
        )  # fmt: skip
        if not thorough and not found[n].full:
            break
    first = found[min(found)]
    share = first.n_matched / first.n_total
    promising = thorough or share >= PARTIAL
    return MatchReport(
        shells=found,
        rmsd1=first.rmsd_1,
        form=_form(crystal, reference, molecule_tolerance) if promising else None,
        density_percent=100.0 * (reference.volume * crystal.z / crystal.volume - 1.0),
        pdd_A=_pdd_distance(crystal, reference),
        structure_matcher_A=(
            structure_matcher_rms(crystal, reference.crystal, timeout_s) if promising else None
        ),
        overlap_A=heavy_overlap(crystal),
        detail=first.detail,
    )


def heavy_overlap(crystal: Crystal) -> float:
    """How far (Å) the heavy atoms of different molecules reach into each other, at most.

    The sum of their van der Waals radii (Bondi) less their distance; 0 for no overlap.
    """
    heavy = crystal.heavy_only()
    radii = VDW_RADII[heavy.numbers]
    try:
        pairs = intermolecular_pairs(heavy, 2.0 * float(radii.max(initial=0.0)))
    except ValueError:  # a collapsed cell
        return math.inf
    overlap = radii[pairs.i] + radii[pairs.j] - pairs.distance
    return float(overlap.max(initial=0.0))


def compare_forms(
    a: OverlayCrystal,
    b: OverlayCrystal,
    *,
    n: int = FORM_SHELL,
    molecule_tolerance: float = MOLECULE_TOLERANCE_A,
) -> FormMatch | None:
    """Whether every cluster of each crystal is found in the other; `b` is the reference.

    A cluster around one kind of molecule may be found in another form: crystals with Z' > 1 often
    have one molecule that is surrounded as in a form with Z' = 1.

    Returns:
        The match, or None where the molecules cannot be compared atom by atom.
    """
    one = overlays(b, a, n=n, molecule_tolerance=molecule_tolerance)
    two = overlays(a, b, n=n, molecule_tolerance=molecule_tolerance)
    if one is None or two is None:
        return None
    worst = min((*one, *two), key=lambda o: (o.n_matched, -o.rmsd))
    return FormMatch(
        kinds=len(one),
        kinds_found=sum(o.full for o in one),
        n_matched=worst.n_matched,
        n_total=n,
        rmsd=worst.rmsd if math.isfinite(worst.rmsd) else None,
    )


# -- criteria ---------------------------------------------------------------------------------
def _fits(n: int, report: MatchReport) -> bool:
    return n in report.shells and report.shells[n].full


def _packing(report: MatchReport) -> bool:
    first = report.first
    return first.n_matched >= math.ceil(PARTIAL * first.n_total)


def _conformer(report: MatchReport) -> bool:
    return report.rmsd1 is not None and report.rmsd1 < CONFORMER_RMSD_A and not _clash(report)


def _solved(report: MatchReport) -> bool:
    rmsd = report.first.rmsd
    return _packing(report) and rmsd is not None and rmsd < SOLVED_RMSD_A and not _clash(report)


def _clash(report: MatchReport) -> bool:
    return report.overlap_A >= CLASH_OVERLAP_A


#: Criteria by name: what each asks, and whether a report meets it.
CRITERIA: dict[str, tuple[str, Callable[[MatchReport], bool]]] = {
    "oxtal_packing": ("at least half of the smallest cluster fits (OXtal, Pac)", _packing),
    "oxtal_recovery": ("RMSD1 below 0.5 Å, no clash (OXtal, Rec)", _conformer),
    "oxtal_solved": ("oxtal_packing with RMSD15 below 2 Å, no clash (OXtal, Sol)", _solved),
    "rmsd15": ("15 of 15 molecules fit (blind tests, FastCSP)", partial(_fits, 15)),
    "rmsd20": ("20 of 20 molecules fit (blind tests, FastCSP)", partial(_fits, 20)),
    "rmsd30": ("30 of 30 molecules fit (blind tests, FastCSP)", partial(_fits, 30)),
    "form": (
        "20 of 20 around every kind of molecule of both crystals, RMSD at most 0.6 Å",
        lambda report: report.form is not None and report.form.same,
    ),
}


def _form(crystal: Crystal, reference: Reference, tolerance: float) -> FormMatch | None:
    mine = _overlay_crystal(crystal)
    if mine is None or reference.overlay is None:
        return None
    return compare_forms(mine, reference.overlay, molecule_tolerance=tolerance)


def _overlay_crystal(crystal: Crystal) -> OverlayCrystal | None:
    try:
        return OverlayCrystal(crystal)
    except ValueError:
        return None


def _pdd_distance(crystal: Crystal, reference: Reference) -> float | None:
    if reference.pdd is None:
        return None
    try:
        return pdd_distance(pdd(crystal.heavy_only(), merge=_MERGE_A), reference.pdd)
    except ValueError:
        return None


# -- for tables -------------------------------------------------------------------------------
def closeness(report: MatchReport) -> tuple[float, ...]:
    """Sort key: the better match is smaller."""
    whole = sum(match.full for match in report.shells.values())
    first = report.first
    return (
        -float(report.form is not None and report.form.same),
        -float(whole),
        -first.n_matched / first.n_total,
        math.inf if first.rmsd is None else first.rmsd,
        math.inf if report.pdd_A is None else report.pdd_A,
    )


def as_document(report: MatchReport) -> dict[str, Any]:
    """A report for JSON."""
    form = report.form
    overlap = report.overlap_A
    return {
        "shells": [
            {"n": n, "n_matched": match.n_matched, "rmsd_A": match.rmsd}
            for n, match in report.shells.items()
        ],
        "rmsd1_A": report.rmsd1,
        "form": None if form is None else {
            "same": form.same, "kinds": form.kinds, "kinds_found": form.kinds_found,
            "n_matched": form.n_matched, "n_total": form.n_total, "rmsd_A": form.rmsd,
        },
        "density_percent": report.density_percent,
        "pdd_A": report.pdd_A,
        "structure_matcher_A": report.structure_matcher_A,
        "overlap_A": overlap if math.isfinite(overlap) else None,
        "criteria": report.criteria,
        "detail": report.detail,
    }  # fmt: skip
