"""The crystal type: no conversion moves an atom."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.crystal.cif import crystal_to_cif_text, read_cif
from packflow_core.crystal.crystal import Crystal, right_handed
from packflow_core.crystal.lattice import heights, is_valid_parameters, parameters_to_cell

lengths, angles = st.floats(4.0, 15.0), st.floats(55.0, 125.0)
parameters = st.tuples(lengths, lengths, lengths, angles, angles, angles).filter(
    lambda p: is_valid_parameters(p) and heights(parameters_to_cell(p)).min() > 2.0
)


def a_crystal(p, seed, z=2, rotated=True):
    """Formaldehyde-like molecules anywhere, whole and partly outside the cell."""
    rng = np.random.default_rng(seed)
    cell = parameters_to_cell(p)
    if rotated:
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        cell = cell @ (turn * np.sign(np.linalg.det(turn)))
    shape = np.array([[0, 0, 0], [1.2, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0.1]])
    places = (rng.random((z, 3)) * 4 - 2) @ cell
    positions = (shape[None] + places[:, None]).reshape(-1, 3)
    return Crystal(np.tile([6, 8, 1, 1], z), positions, cell, z)


def distances(crystal):
    """All interatomic distances, and those to the images next door."""
    shifts = np.vstack([np.zeros(3), np.eye(3), -np.eye(3)]) @ crystal.cell
    x = crystal.positions
    return np.linalg.norm(x[None, None] + shifts[:, None, None] - x[None, :, None], axis=-1)


@settings(deadline=None, max_examples=40)
@given(parameters, st.integers(0, 2**31))
def test_ase_and_pymatgen_move_nothing(p, seed):
    crystal = a_crystal(p, seed)
    for back in (
        Crystal.from_ase(crystal.to_ase(), crystal.z),
        Crystal.from_pymatgen(crystal.to_pymatgen(), crystal.z),
        Crystal.from_pymatgen(
            Crystal.from_ase(crystal.to_ase(), crystal.z).to_pymatgen(), crystal.z
        ),
    ):
        assert (back.numbers == crystal.numbers).all()
        assert back.z == crystal.z
        assert back.cell == pytest.approx(crystal.cell, abs=1e-12)
        assert back.positions == pytest.approx(crystal.positions, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(parameters, st.integers(0, 2**31))
def test_cif_moves_nothing(tmp_path_factory, p, seed):
    crystal = a_crystal(p, seed, z=1)
    path = tmp_path_factory.getbasetemp() / "round_trip.cif"
    path.write_text(crystal_to_cif_text(crystal, "x"))
    back = read_cif(path, keep_order=True)
    assert (back.numbers == crystal.numbers).all()
    assert back.z == crystal.z
    assert back.fractional == pytest.approx(crystal.fractional, abs=1e-10)
    assert distances(back) == pytest.approx(distances(crystal), abs=1e-8)


def test_pymatgen_and_ase_read_our_cif(tmp_path):
    from ase.io import read
    from pymatgen.core import Structure

    crystal = a_crystal((6, 7, 8, 75, 100, 115), 2, z=1)
    path = tmp_path / "x.cif"
    path.write_text(crystal_to_cif_text(crystal, "x"))
    for peer in (
        Crystal.from_pymatgen(Structure.from_file(path)),
        Crystal.from_ase(read(path)),
    ):
        assert peer.parameters == pytest.approx(crystal.parameters, abs=1e-9)
        for number, frac in zip(crystal.numbers, crystal.fractional, strict=True):
            away = peer.fractional[peer.numbers == number] - frac
            assert abs(away - np.rint(away)).max(axis=1).min() < 1e-8


def test_frames_of_pymatgen_and_cif_agree_without_rotation(tmp_path):
    crystal = a_crystal((6, 7, 8, 75, 100, 115), 1, rotated=False)
    (tmp_path / "x.cif").write_text(crystal_to_cif_text(crystal, "x"))
    back = read_cif(tmp_path / "x.cif", keep_order=True)
    assert back.cell == pytest.approx(crystal.cell, abs=1e-10)
    assert back.positions == pytest.approx(crystal.positions, abs=1e-10)


def test_density_and_volume_of_ice():
    cell = np.diag([4.5, 7.8, 7.3])
    crystal = Crystal(np.tile([8, 1, 1], 8), np.zeros((24, 3)), cell, 8)
    assert crystal.volume == pytest.approx(256.23)
    assert crystal.density == pytest.approx(8 * 18.015 / 256.23 * 1.66054, rel=1e-4)
    assert crystal.n_heavy == 8
    assert crystal.molecule_index.tolist() == sorted(list(range(8)) * 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": np.zeros((3, 3))}, "4 atomic numbers but 3 positions"),
        ({"z": 3}, "4 atoms cannot be 3 equal molecules"),
        ({"z": 0}, "cannot be 0 equal molecules"),
        ({"cell": -np.eye(3)}, "not right-handed"),
        ({"cell": np.zeros((3, 3))}, "no volume"),
        ({"positions": np.full((4, 3), np.nan)}, "NaN"),
        ({"cell": np.full((3, 3), np.inf)}, "infinity"),
    ],
)
def test_impossible_crystals_are_refused(change, words):
    arguments = {"numbers": [6, 8, 6, 8], "positions": np.zeros((4, 3)), "cell": np.eye(3), "z": 2}
    with pytest.raises(ValueError, match=words):
        Crystal(**(arguments | change))


def test_supercell_repeats_every_contact():
    crystal = a_crystal((6, 7, 8, 75, 100, 115), 3)
    big = crystal.repeated((2, 1, 3))
    assert big.z == 6 * crystal.z
    assert big.volume == pytest.approx(6 * crystal.volume)
    assert big.density == pytest.approx(crystal.density)
    assert (big.positions[: len(crystal)] == crystal.positions).all()
    frac = crystal.fractional
    for k, positions in enumerate(big.positions.reshape(6, -1, 3)):
        steps = positions @ np.linalg.inv(crystal.cell) - frac
        assert steps == pytest.approx(np.tile([k // 3, 0, k % 3], (len(frac), 1)), abs=1e-9)


def test_wrapped_moves_molecules_as_a_whole():
    crystal = a_crystal((6, 7, 8, 75, 100, 115), 4)
    wrapped = crystal.wrapped()
    steps = (wrapped.fractional - crystal.fractional).reshape(crystal.z, -1, 3)
    assert steps == pytest.approx(np.rint(steps[:, :1]).repeat(4, axis=1), abs=1e-9)
    centroids = wrapped.fractional.reshape(crystal.z, -1, 3).mean(axis=1)
    assert (centroids >= -1e-9).all()
    assert (centroids < 1).all()


def test_heavy_only_drops_hydrogens_in_place():
    crystal = a_crystal((6, 7, 8, 75, 100, 115), 5)
    heavy = crystal.heavy_only()
    assert heavy.numbers.tolist() == [6, 8, 6, 8]
    assert (heavy.positions == crystal.positions[[0, 1, 4, 5]]).all()
    assert (heavy.cell == crystal.cell).all()


def test_right_handed_keeps_the_lattice():
    cell = parameters_to_cell((6, 7, 8, 75, 100, 115))
    assert (right_handed(cell) == cell).all()
    mirrored = cell * np.array([1, 1, -1])
    assert np.linalg.det(right_handed(mirrored)) > 0
    assert (right_handed(mirrored) == -mirrored).all()
