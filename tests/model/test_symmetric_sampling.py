"""Samples held to a space group are symmetric, whatever the field does."""

import numpy as np
import pytest
import spglib
import torch

from packflow_core.baselines.space_groups import GENERAL_FREQUENCY, space_group
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.model.open_model import OpenConfig, OpenPackFlow, decode_cell
from packflow_core.model.sampler import Sampler, Schedule
from packflow_core.model.symmetric import (
    SymmetricBlock,
    cell_symmetry,
    draw_symmetry,
    symmetric_groups,
)

CONFIG = OpenConfig(d_model=32, nhead=4, num_layers=1, dim_feedforward=32, pair_dim=8)
SCHEDULE = Schedule(4, "ab2", symmetric=True)


def untrained() -> OpenPackFlow:
    """A field that knows nothing of symmetry, and does move things."""
    torch.manual_seed(3)
    model = OpenPackFlow(CONFIG)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("number", sorted(GENERAL_FREQUENCY))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_operations_form_the_group(number, order):
    symmetry = cell_symmetry(number, order)
    assert np.array_equal(symmetry.rotations[0], np.eye(3))
    assert len(symmetry.rotations) == len(space_group(number).representatives)
    # The product of any two is a third, up to a lattice translation.
    for w1, u1 in zip(symmetry.rotations, symmetry.translations, strict=True):
        for w2, u2 in zip(symmetry.rotations, symmetry.translations, strict=True):
            same = (symmetry.rotations == w1 @ w2).all(axis=(1, 2))
            assert same.sum() == 1
            off = symmetry.translations[same][0] - (w1 @ u2 + u1)
            assert np.abs(off - np.rint(off)).max() < 1e-9


@pytest.mark.parametrize("number", [1, 2, 4, 5, 9, 14, 15, 19, 29, 61, 76])
def test_projection_is_a_projection_and_leaves_the_group(number):
    rng = np.random.default_rng(number)
    symmetry = cell_symmetry(number, rng.permutation(3))
    z, n = len(symmetry.rotations), 5
    block = SymmetricBlock([symmetry] * 2, rng.random((2, 3)), 900.0, torch.device("cpu"))
    x = torch.tensor(rng.normal(size=(2, z * n, 3)) * 3, dtype=torch.float32)
    lattice = torch.tensor(0.3 * rng.normal(size=(2, 6)), dtype=torch.float32)
    once = block.project(x, lattice)
    twice = block.project(*once)
    for a, b in zip(once, twice, strict=True):
        assert torch.allclose(a, b, atol=2e-4)
    cell = decode_cell(once[1], torch.full((1, 1), 900.0))[0].double().numpy()
    fractional = once[0][0].double().numpy() @ np.linalg.inv(cell)
    numbers = np.tile([6, 7, 8, 9, 17], z)
    found = spglib.get_symmetry_dataset((cell, fractional, numbers), 0.01)
    assert found.number == number


def test_a_symmetric_state_is_left_alone():
    symmetry = cell_symmetry(14, (0, 1, 2))
    block = SymmetricBlock([symmetry], np.array([[0.2, 0.1, 0.3]]), 900.0, torch.device("cpu"))
    first = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    x, lattice = block.place(first, torch.tensor([[0.3, -0.2, 0.1, 0.4, 0.2, -0.3]]))
    y, same = block.project(x, lattice)
    assert torch.allclose(x, y, atol=1e-4)
    assert torch.allclose(lattice, same, atol=1e-4)
    # Two angles of a monoclinic cell are right; of the third the mean over the operations is left.
    assert lattice[0, [3, 5]].abs().max() < 1e-4
    assert lattice[0, 4] == pytest.approx(0.2, abs=1e-4)


def test_samples_have_the_group_that_they_were_given():
    molecule = Molecule.from_smiles("CC(=O)Oc1ccccc1C(=O)O")
    sampler = Sampler(untrained(), molecule)
    for z in (2, 4):
        for sample in sampler.sample(z, range(6), 0, SCHEDULE):
            cell = parameters_to_cell(sample.parameters)
            fractional = sample.positions @ np.linalg.inv(cell)
            numbers = np.tile(molecule.numbers, z)
            found = spglib.get_symmetry_dataset((cell, fractional, numbers), 0.01)
            assert found.number == sample.space_group


def test_a_candidate_does_not_depend_on_its_company():
    sampler = Sampler(untrained(), Molecule.from_smiles("CC(N)=O"))
    together = sampler.sample(4, range(20), 7, SCHEDULE)
    for index in (0, 3, 17):
        alone = sampler.sample(4, [index], 7, SCHEDULE)[0]
        assert (alone.positions == together[index].positions).all()
        assert (alone.parameters == together[index].parameters).all()
        assert alone.space_group == together[index].space_group
        assert alone.expected_volume == together[index].expected_volume


def test_an_enantiomer_gets_groups_without_mirror_images():
    sampler = Sampler(untrained(), Molecule.from_smiles("C[C@H](N)C(=O)O"))
    groups = {s.space_group for s in sampler.sample(4, range(32), 0, SCHEDULE)}
    assert len(groups) > 1
    assert all(space_group(number).sohncke for number in groups)


def test_cells_that_the_lattice_cannot_have_are_not_drawn():
    # Hexagonal axes make 120 degrees, where the logarithm of the lattice state ends.
    assert not symmetric_groups(3, mirror_allowed=True)
    assert not symmetric_groups(6, mirror_allowed=True)
    rng = np.random.default_rng(0)
    assert all(draw_symmetry(4, True, rng).number < 143 for _ in range(200))


def test_where_no_group_fits_molecules_are_free():
    sampler = Sampler(untrained(), Molecule.from_smiles("CC(N)=O"))
    free = sampler.sample(5, range(2), 0, SCHEDULE)
    assert [s.space_group for s in free] == [None, None]
    plain = sampler.sample(5, range(2), 0, Schedule(4, "ab2"))
    assert (free[0].positions == plain[0].positions).all()
