"""The sampler: reproducible candidate by candidate, and of the right order."""

import numpy as np
import pytest
import torch

from packflow_core.chem.molecule import Molecule
from packflow_core.model.open_model import OpenConfig, OpenPackFlow
from packflow_core.model.sampler import BLOCK, Sampler, Schedule, candidate_rng, integrate

FOUR = Schedule(steps=4)


@pytest.fixture(scope="module")
def sampler():
    torch.manual_seed(0)
    config = OpenConfig(d_model=32, nhead=4, num_layers=2, dim_feedforward=64, pair_dim=8)
    model = OpenPackFlow(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return Sampler(model, Molecule.from_smiles("CC(=O)O"))


def test_a_candidate_is_the_same_in_any_company(sampler):
    everyone = sampler.sample(2, range(BLOCK + 3), seed=5, schedule=FOUR)
    alone = sampler.sample(2, [BLOCK + 1], seed=5, schedule=FOUR)[0]
    assert np.array_equal(alone.positions, everyone[BLOCK + 1].positions)
    assert np.array_equal(alone.parameters, everyone[BLOCK + 1].parameters)
    backwards = sampler.sample(2, [3, 1], seed=5, schedule=FOUR)
    assert np.array_equal(backwards[1].positions, everyone[1].positions)
    assert not np.array_equal(everyone[0].positions, everyone[1].positions)


def test_noise_depends_on_every_part_of_the_key():
    base = candidate_rng(0, "C", 2, 7).standard_normal(4)
    for other in ((1, "C", 2, 7), (0, "CC", 2, 7), (0, "C", 4, 7), (0, "C", 2, 8)):
        assert not np.array_equal(base, candidate_rng(*other).standard_normal(4))
    assert np.array_equal(base, candidate_rng(0, "C", 2, 7).standard_normal(4))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("power", [1.0, 1.5])
def test_order_of_convergence(solver, order, power):
    """dx/dt = -2 t x has the solution x(0) = x(1) exp(1); halving the step divides the error."""

    def field(x, lattice, t):
        return -2 * t * x, -2 * t * lattice

    x1 = torch.ones(1, 1, 3, dtype=torch.float64)
    l1 = torch.ones(1, 6, dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        x, lattice = integrate(field, x1, l1, steps, solver, power)
        assert torch.allclose(x.flatten()[0], lattice.flatten()[0])
        errors.append(abs(float(x[0, 0, 0]) - np.e))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


def test_positions_are_molecule_by_molecule_and_centred(sampler):
    sample = sampler.sample(3, [0], seed=0, schedule=Schedule(steps=2))[0]
    assert sample.positions.shape == (12, 3)
    np.testing.assert_allclose(sample.positions.mean(0), 0, atol=1e-4)
    assert (sample.parameters[:3] > 0).all()


def test_restarts_keep_candidates_independent_and_mend_molecules(sampler):
    schedule = Schedule(steps=4, restarts=(0.5, 0.02), restart_steps=2)
    everyone = sampler.sample(2, range(4), seed=5, schedule=schedule)
    alone = sampler.sample(2, [2], seed=5, schedule=schedule)[0]
    assert np.array_equal(alone.positions, everyone[2].positions)
    plain = sampler.sample(2, [2], seed=5, schedule=FOUR)[0]
    assert not np.array_equal(plain.positions, alone.positions)
    # The network is untrained, so its molecules are wrong; after a last restart at t = 0.02 they
    # are within little of a conformer.
    bonds = sampler.molecule.bonds
    for sample, sound in ((plain, False), (alone, True)):
        x = sample.positions.reshape(2, -1, 3)
        length = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1)
        assert bool(((length > 1.0) & (length < 1.8)).all()) is sound
