"""The sampler: reproducible candidate by candidate, and of the right order."""

import numpy as np
import pytest
import torch

from packflow_core.chem.molecule import Molecule
from packflow_core.model.official import OfficialConfig, OfficialPackFlow
from packflow_core.model.open_model import OpenConfig, OpenPackFlow
from packflow_core.model.sampler import Sampler, Schedule, block_size, candidate_rng

FOUR = Schedule(steps=4)
BLOCK = block_size(8)


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


def test_blocks_depend_on_atoms_and_kind_of_device_alone():
    assert [block_size(n) for n in (4, 64, 65, 91, 128, 200, 300)] == [16, 16, 8, 4, 4, 1, 1]
    assert [block_size(n, "cuda") for n in (4, 181, 182, 300)] == [64, 64, 32, 16]
    assert block_size(64, "mps") == block_size(64)
    # Small blocks lie inside large ones, and callers work through aligned sixteens.
    assert all(16 % block_size(n) == 0 for n in range(1, 400))


def test_large_cells_are_integrated_in_smaller_blocks(sampler):
    z = 20  # 80 heavy atoms
    assert block_size(4 * z) == 8
    shapes = []
    field = sampler._field(z)

    def recorded(x, lattice, t):
        shapes.append(len(x))
        return field(x, lattice, t)

    sampler._field, original = (lambda _: recorded), sampler._field
    try:
        both = sampler.sample(z, [9, 2], seed=1, schedule=Schedule(steps=1))
    finally:
        sampler._field = original
    assert shapes == [8, 8]
    alone = sampler.sample(z, [9], seed=1, schedule=Schedule(steps=1))[0]
    assert np.array_equal(both[0].positions, alone.positions)


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
    assert np.array_equal(alone.parameters, everyone[2].parameters)
    plain = sampler.sample(2, [2], seed=5, schedule=FOUR)[0]
    assert not np.array_equal(plain.positions, alone.positions)
    # The network is untrained, so its molecules are wrong; after a last restart at t = 0.02 they
    # are within little of a conformer.
    bonds = sampler.molecule.bonds
    for sample, sound in ((plain, False), (alone, True)):
        x = sample.positions.reshape(2, -1, 3)
        length = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1)
        assert bool(((length > 1.0) & (length < 1.8)).all()) is sound


def test_a_candidate_may_be_asked_for_twice(sampler):
    first, second, again = sampler.sample(2, [3, 1, 3], seed=5, schedule=FOUR)
    assert np.array_equal(first.positions, again.positions)
    assert not np.array_equal(first.positions, second.positions)


@pytest.mark.parametrize(
    ("schedule", "calls"),
    [
        (Schedule(), 50),
        (Schedule(steps=8, solver="ab2", restarts=(0.6, 0.3), restart_steps=2), 12),
        (Schedule(steps=5, solver="heun", restarts=(0.5,), restart_steps=3), 14),
    ],
)
def test_calls_are_those_that_are_made(sampler, schedule, calls):
    made = []
    field = sampler._field(1)

    def counted(x, lattice, t):
        made.append(t)
        return field(x, lattice, t)

    sampler._field, original = (lambda _: counted), sampler._field
    try:
        sampler.sample(1, [0], seed=0, schedule=schedule)
    finally:
        sampler._field = original
    assert len(made) == schedule.network_calls == calls


@pytest.mark.parametrize("kind", ["open", "official"])
def test_bf16_is_close_and_float32_outside(kind):
    """Two steps of a small network, whose products are good to three digits."""
    torch.manual_seed(0)
    model = (
        OpenPackFlow(OpenConfig(32, 4, 2, 64, pair_dim=8))
        if kind == "open"
        else OfficialPackFlow(OfficialConfig(32, 4, 2, 64))
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    molecule = Molecule.from_smiles("CC(=O)O")
    samples = [
        Sampler(model, molecule, bf16=bf16).sample(2, [0], seed=5, schedule=Schedule(steps=2))[0]
        for bf16 in (False, True)
    ]
    moved = np.abs(samples[0].positions - samples[1].positions).max()
    assert 0 < moved < 0.1
    assert samples[1].positions.dtype == np.float64
    np.testing.assert_allclose(samples[1].parameters, samples[0].parameters, rtol=0.03)
