"""All measures of a match, on crystals whose distance from the reference is known."""

import json

import numpy as np
import pytest

from packflow_core.analysis.match_columns import UNMATCHED, match_columns
from packflow_core.analysis.matching import (
    CRITERIA,
    Reference,
    as_document,
    closeness,
    compare_forms,
    heavy_overlap,
    match_report,
)
from packflow_core.analysis.overlay import OverlayCrystal
from packflow_core.crystal.crystal import Crystal
from packflow_core.store.schema import STAGE_COLUMNS


def test_the_crystal_itself_meets_every_criterion(monoclinic):
    loose = monoclinic.repeated((1, 1, 2))
    report = match_report(loose, Reference(monoclinic.heavy_only()))
    assert [m.n_matched for m in report.shells.values()] == [15, 20, 30]
    zeros = [m.rmsd for m in report.shells.values()] + [report.rmsd1, report.pdd_A,
             report.density_percent, report.form.rmsd]  # fmt: skip
    assert zeros == pytest.approx([0.0] * len(zeros), abs=1e-3)
    assert report.structure_matcher_A == pytest.approx(0.0, abs=1e-3)
    assert (report.form.kinds, report.form.kinds_found, report.form.same) == (1, 1, True)
    clash = heavy_overlap(monoclinic) >= 0.7
    assert set(CRITERIA) - set(report.criteria) == (
        {"oxtal_recovery", "oxtal_solved"} if clash else set()
    )


def test_density_is_that_of_equal_molecules(monoclinic):
    """Hydrogens that the reference lacks do not count, and larger cells are less dense."""
    wide = monoclinic.with_positions(
        _apart(monoclinic, 1.02).reshape(-1, 3), monoclinic.cell * 1.02
    )
    report = match_report(wide, Reference(monoclinic.heavy_only()))
    assert report.density_percent == pytest.approx(100 * (1.02**-3 - 1), abs=1e-9)
    assert report.first.full
    assert 0.01 < report.first.rmsd < 0.3
    assert 0.05 < report.pdd_A < 0.3


def _apart(crystal, factor):
    """Molecules moved apart, not stretched."""
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    centres = molecules.mean(axis=1, keepdims=True)
    return molecules + (factor - 1.0) * centres


def test_another_packing_meets_nothing_but_the_conformer(monoclinic, triclinic):
    reference = Reference(monoclinic)
    report = match_report(triclinic, reference)
    assert list(report.shells) == [15]  # larger clusters are not compared in vain
    assert set(report.criteria) <= {"oxtal_recovery"}
    assert report.rmsd1 == pytest.approx(0.0, abs=1e-3)
    assert report.form is None
    thorough = match_report(triclinic, reference, thorough=True)
    assert list(thorough.shells) == [15, 20, 30]
    assert thorough.form.same is False
    assert thorough.structure_matcher_A is None
    assert closeness(match_report(monoclinic, reference)) < closeness(report)


def test_a_form_is_found_when_all_its_kinds_of_molecules_are(build):
    """A layered crystal with Z' = 2: one layer like the other form's, one not."""
    places = [(0.23, 0.31, 0.06), (0.25, 0.3, 0.56)]
    parameters = (7.2, 8.1, 36.0, 81, 98, 107)
    two = build("P -1", parameters, places, turn=130)
    size = len(two) // two.z
    moved = two.positions.copy()
    moved[2 * size : 3 * size] += [2.5, 0.5, 0.0]
    moved[3 * size :] -= [2.5, 0.5, 0.0]
    other = two.with_positions(moved)
    a, b = OverlayCrystal(other), OverlayCrystal(two)
    form = compare_forms(a, b, n=6)
    assert form.kinds == 2
    assert form.kinds_found == 1
    assert not form.same


def test_overlap_of_heavy_atoms():
    carbon = Crystal([6], [[0.0, 0.0, 0.0]], np.eye(3) * 2.5)
    assert heavy_overlap(carbon) == pytest.approx(2 * 1.70 - 2.5)
    assert heavy_overlap(Crystal([6], [[0.0, 0.0, 0.0]], np.eye(3) * 9.0)) == 0.0


def test_clashes_spoil_what_oxtal_counts(monoclinic):
    pressed = monoclinic.with_positions(
        _apart(monoclinic, 0.8).reshape(-1, 3), monoclinic.cell * 0.8
    )
    report = match_report(pressed, Reference(pressed))
    assert report.overlap_A >= 0.7
    assert "rmsd15" in report.criteria
    assert not {"oxtal_recovery", "oxtal_solved"} & set(report.criteria)


def test_odd_crystals_do_not_match_and_say_why(monoclinic):
    flat = monoclinic.with_positions(
        monoclinic.positions * [1, 0.05, 1], monoclinic.cell * [1, 0.05, 1]
    )
    report = match_report(flat, Reference(monoclinic), thorough=True)
    assert not report.first.full
    assert report.form is None
    assert "cannot be compared" in report.detail
    assert Reference(flat).problem


def test_columns_and_document(monoclinic, triclinic):
    known = {field.name for field in STAGE_COLUMNS["rank"]}
    reference = Reference(monoclinic)
    good = match_columns(match_report(monoclinic, reference))
    bad = match_columns(match_report(triclinic, reference))
    assert set(good) == set(bad) == set(UNMATCHED)
    assert set(good) <= known
    assert (good["matches_reference"], good["match_n"], good["match_n30"]) == (True, 15, 30)
    assert good["match_form"] is True
    assert "form" in good["match_criteria"].split()
    assert (bad["matches_reference"], bad["match_n20"], bad["match_form"]) == (False, None, None)
    report = as_document(match_report(monoclinic, reference))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert [shell["n"] for shell in report["shells"]] == [15, 20, 30]
