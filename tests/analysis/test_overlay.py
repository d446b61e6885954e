"""Superpositions prove what oxtalign finds, in any setting, and see every kind of molecule."""

from pathlib import Path

import numpy as np
import pytest

from packflow_core.analysis import overlay as module
from packflow_core.analysis.overlay import OverlayCrystal, overlay, overlays
from packflow_core.analysis.similarity import matches
from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal

DATA = Path(__file__).parents[1] / "data"


def in_other_setting(crystal: Crystal, seed: int, mirror: bool) -> Crystal:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q)) * (-1 if mirror else 1)
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    lattice = rng.integers(-1, 2, (crystal.z, 3)) @ crystal.cell
    order = rng.permutation(crystal.z)
    atoms = rng.permutation(molecules.shape[1])
    moved = (molecules + lattice[:, None])[order][:, atoms].reshape(-1, 3) + rng.normal(size=3)
    cell = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]]) @ crystal.cell @ q
    numbers = crystal.numbers.reshape(crystal.z, -1)[:, atoms].reshape(-1)
    return Crystal(numbers, moved @ q, cell if np.linalg.det(cell) > 0 else -cell, crystal.z)


def strained(crystal: Crystal, size: float) -> Crystal:
    strain = np.eye(3) + size * np.array([[2.0, 1, 0], [0, -1, 0], [1, 0, 1.5]])
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    centres = molecules.mean(axis=1, keepdims=True)
    moved = molecules - centres + centres @ strain
    return crystal.with_positions(moved.reshape(-1, 3), crystal.cell @ strain)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("which", ["monoclinic", "triclinic"])
def test_the_same_crystal_in_another_setting(request, which, mirror):
    """Also with the atoms of its molecules in another order, and in a supercell."""
    crystal = request.getfixturevalue(which)
    other = in_other_setting(crystal, 5, mirror)
    for one in (other, other.repeated((1, 2, 1))):
        found = overlay(OverlayCrystal(crystal), OverlayCrystal(one), enough=0.1)
        assert (found.n_matched, found.n_total, found.full) == (15, 15, True)
        assert found.rmsd == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["benzene", "urea"])
def test_symmetric_molecules_on_special_positions(name):
    """Twelve symmetries of the graph of benzene, four molecules, one kind."""
    crystal = read_cif(DATA / f"{name}.cif")
    prepared = OverlayCrystal(crystal)
    assert prepared.independent == [0]
    found = overlay(prepared, OverlayCrystal(in_other_setting(crystal, 4, True)), enough=0.1)
    assert found.full
    assert found.rmsd == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("n", [15, 20])
@pytest.mark.parametrize("size", [0.005, 0.01, 0.03])
def test_the_rmsd_is_that_of_oxtalign(monoclinic, size, n):
    other = in_other_setting(strained(monoclinic, size), 2, False)
    found = overlay(OverlayCrystal(monoclinic), OverlayCrystal(other), n=n)
    theirs = matches(other, monoclinic, n=n)
    assert found.n_matched == theirs.n_matched
    # Where the last places of a cluster go to one of several equal contacts, the choice may differ.
    assert found.rmsd == pytest.approx(theirs.rmsd, rel=5e-3)
    enough = found.rmsd + 0.01
    proof = overlay(OverlayCrystal(monoclinic), OverlayCrystal(other), n=n, enough=enough)
    assert found.full
    assert proof.full
    assert found.rmsd - 1e-6 <= proof.rmsd <= enough


def test_another_packing_is_not_proved(monoclinic, triclinic):
    a, b = OverlayCrystal(monoclinic), OverlayCrystal(triclinic)
    assert overlay(a, b).n_matched < 8
    assert not overlay(a, b, enough=0.25).full


def test_every_kind_of_molecule_counts(build):
    """One of two independent molecules shifted by 0.4 Å: a crystal with Z' = 2, twice."""
    one = build(
        "P -1", (7.2, 8.1, 18.0, 81, 98, 107), [(0.23, 0.31, 0.12), (0.25, 0.3, 0.62)], turn=130
    )
    size = len(one) // one.z
    moved = one.positions.copy()
    for molecule in (2, 3):
        sign = 1.0 if molecule == 2 else -1.0
        moved[molecule * size : (molecule + 1) * size] += sign * np.array([0.3, 0.4, 0.2])
    a, b = OverlayCrystal(one), OverlayCrystal(one.with_positions(moved))
    assert a.independent == [0, 2]
    kinds = overlays(a, b)
    assert len(kinds) == 2
    worst = overlay(a, b)
    assert worst.rmsd == max(kind.rmsd for kind in kinds if kind.n_matched == worst.n_matched)
    assert worst.rmsd > 0.1
    assert overlays(a, a)[1].rmsd == pytest.approx(0.0, abs=1e-9)


def test_equivalent_molecules_are_one_kind(monoclinic):
    assert OverlayCrystal(monoclinic).independent == [0]
    assert OverlayCrystal(monoclinic.repeated((2, 1, 1))).independent == [0]


def test_clusters_hold_the_molecules_with_the_closest_contacts(monoclinic):
    shell = OverlayCrystal(monoclinic).shell(0, 15)
    assert shell.shape == (15, 10, 3)
    contact = np.linalg.norm(shell[:, :, None] - shell[0], axis=-1).min(axis=(1, 2))
    assert contact[0] == 0.0
    assert (np.diff(contact) >= -1e-6).all()
    larger = OverlayCrystal(monoclinic).shell(0, 30)
    beyond = np.linalg.norm(larger[15:, :, None] - larger[0], axis=-1).min(axis=(1, 2))
    assert beyond.min() >= contact.max() - 1e-6


def test_other_molecules_are_not_compared(monoclinic, monkeypatch):
    changed = monoclinic.numbers.copy()
    changed[changed == 17] = 35
    other = Crystal(changed, monoclinic.positions, monoclinic.cell, 4)
    a = OverlayCrystal(monoclinic)
    assert overlay(a, OverlayCrystal(other)) is None
    assert overlays(a, OverlayCrystal(other)) is None
    monkeypatch.setattr(module, "MAX_SYMMETRIES", 0)
    module._graph_maps.cache_clear()
    assert overlay(a, a) is None
    module._graph_maps.cache_clear()


def test_odd_crystals_are_refused(monoclinic):
    flat = monoclinic.with_positions(
        monoclinic.positions * [1, 0.2, 1], monoclinic.cell * [1, 0.2, 1]
    )
    with pytest.raises(ValueError, match="Å thick"):
        OverlayCrystal(flat)
    with pytest.raises(ValueError, match="no heavy atom"):
        OverlayCrystal(Crystal([1, 1], [[0, 0, 0], [0, 0, 0.7]], np.eye(3) * 4.0))
