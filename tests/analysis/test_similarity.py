"""The same packing is found in any setting, another packing is not, and nothing crashes."""

import signal
import time

import numpy as np
import pytest

from packflow_core.analysis import similarity
from packflow_core.analysis.similarity import Packing, matches, structure_matcher_rms
from packflow_core.crystal.crystal import Crystal


def in_other_setting(crystal: Crystal, seed: int, mirror: bool = False) -> Crystal:
    """Another unimodular cell, another origin, rotated, molecules permuted and translated."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q)) * (-1 if mirror else 1)
    transform = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]])
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    lattice = rng.integers(-1, 2, (crystal.z, 3)) @ crystal.cell
    order = rng.permutation(crystal.z)
    moved = (molecules + lattice[:, None])[order].reshape(-1, 3) + rng.normal(size=3)
    cell = transform @ crystal.cell @ q
    return Crystal(
        crystal.numbers, moved @ q, cell if np.linalg.det(cell) > 0 else -cell, crystal.z
    )


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("which", ["monoclinic", "triclinic"])
def test_same_crystal_in_another_setting(request, which, mirror):
    crystal = request.getfixturevalue(which)
    found = matches(in_other_setting(crystal, 5, mirror), crystal)
    assert (found.n_matched, found.n_total, found.full) == (15, 15, True)
    assert found.rmsd == pytest.approx(0.0, abs=1e-5)


def test_order_of_atoms_and_hydrogens_do_not_matter(monoclinic):
    rng = np.random.default_rng(1)
    per_molecule = len(monoclinic) // 4
    order = rng.permutation(per_molecule)
    index = (np.arange(4)[:, None] * per_molecule + order).reshape(-1)
    shuffled = Crystal(
        monoclinic.numbers[index], monoclinic.positions[index], monoclinic.cell, monoclinic.z
    )
    assert matches(shuffled, monoclinic.heavy_only()).rmsd == pytest.approx(0.0, abs=1e-5)


def test_supercell_is_the_same_packing(triclinic):
    assert matches(triclinic.repeated((2, 1, 1)), triclinic).rmsd == pytest.approx(0.0, abs=1e-5)


def test_small_strain_matches_with_a_small_rmsd(monoclinic):
    strain = np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0], [0.01, 0, 0.015]])
    molecules = monoclinic.positions.reshape(4, -1, 3)
    centres = molecules.mean(axis=1, keepdims=True)
    strained = monoclinic.with_positions(
        (molecules - centres + centres @ strain).reshape(-1, 3), monoclinic.cell @ strain
    )
    found = matches(strained, monoclinic)
    assert found.full
    assert 0.02 < found.rmsd < 0.3
    assert structure_matcher_rms(strained, monoclinic) < 0.3


def test_another_packing_does_not_match(monoclinic, triclinic):
    found = matches(triclinic, monoclinic)
    assert not found.full
    assert found.n_matched < 8
    assert structure_matcher_rms(triclinic, monoclinic) is None


def test_structure_matcher_in_another_setting(monoclinic):
    other = in_other_setting(monoclinic, 2)
    assert structure_matcher_rms(other, monoclinic) == pytest.approx(0.0, abs=1e-3)


def test_another_compound_does_not_match(monoclinic):
    changed = monoclinic.numbers.copy()
    changed[changed == 17] = 35
    other = Crystal(changed, monoclinic.positions, monoclinic.cell, 4)
    found = matches(other, monoclinic)
    assert (found.rmsd, found.n_matched) == (None, 0)
    assert found.detail


def test_odd_crystals_are_no_match_with_a_reason(monoclinic):
    flat = monoclinic.with_positions(
        monoclinic.positions * [1, 0.05, 1], monoclinic.cell * [1, 0.05, 1]
    )
    only_hydrogen = Crystal([1, 1], [[0, 0, 0], [0, 0, 0.7]], np.eye(3) * 4.0)
    piled = monoclinic.with_positions(monoclinic.positions * 0.0)
    for odd in (flat, only_hydrogen, piled):
        for found in (matches(odd, monoclinic), matches(monoclinic, odd)):
            assert not found.full
        assert structure_matcher_rms(odd, monoclinic) is None
    assert "0.4" in matches(flat, monoclinic).detail
    assert matches(monoclinic, flat).detail.startswith("reference cannot be compared")


def test_bonds_are_not_perceived_between_molecules(monoclinic):
    """Molecules pressed together until atoms of neighbours touch are still compared."""
    pressed = monoclinic.with_positions(
        (monoclinic.positions.reshape(4, -1, 3) + 0.0).reshape(-1, 3), monoclinic.cell * 0.8
    )
    packing = Packing(pressed)
    assert [m.n_atoms for m in packing.structure.molecules] == [10, 10, 10, 10]
    assert matches(packing, pressed).full


def test_time_limit_ends_the_comparison(monkeypatch, monoclinic):
    monkeypatch.setattr("oxtalign.compare", lambda *_a, **_k: time.sleep(30))
    found = matches(monoclinic, monoclinic, timeout_s=0.2)
    assert (found.full, found.detail) == (False, "comparison stopped after 0.2 s")
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def test_an_exception_inside_the_comparison_is_no_match(monkeypatch, monoclinic):
    def broken(*_args, **_kwargs):
        raise RuntimeError("singular")

    monkeypatch.setattr("oxtalign.compare", broken)
    found = matches(monoclinic, monoclinic)
    assert not found.full
    assert found.detail == "comparison failed: RuntimeError: singular"


def test_prepared_packings_are_reusable(monoclinic, triclinic):
    packing = Packing(monoclinic)
    assert matches(packing, packing).full
    assert not matches(triclinic, packing).full
    assert similarity.SHELL_SIZE == 15
