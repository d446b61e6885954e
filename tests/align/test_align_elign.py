"""Shaped energies and shared prefixes of an alignment."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from packflow_core.align import shaping
from packflow_core.align.params import AlignParams
from packflow_core.align.rewards import Score
from packflow_core.align.rollouts import Group, sample_group
from packflow_core.align.surrogate import as_crystals, batch_plan, frozen_draws
from packflow_core.crystal.lattice import cell_to_parameters
from packflow_core.model.checkpoint import load_model
from packflow_core.model.flow import interpolate
from packflow_core.store.rows import crystal_of
from packflow_core.training.data import TrainingSet

SMILES = "NC(N)=O"


def score(energy):
    return Score("ok", energy=energy, force=1.0)


def test_what_was_decided_before_a_time_counts_for_nothing_there():
    """Two ends of equal energy: the one that came from a worse state did better."""
    params = AlignParams(energy_share=1.0)
    ends, states = [score(1.0), score(1.0), score(3.0)], [score(4.0), score(1.0), score(3.0)]
    found = shaping.shaped_advantages(ends, states, params)
    gains = np.array([3.0, 0.0, 0.0])
    assert found == pytest.approx((gains - gains.mean()) / gains.std(), abs=1e-6)


def test_forces_are_not_shaped_and_a_failed_state_teaches_nothing():
    ends = [Score("ok", energy=0.0, force=f) for f in (1.0, 2.0, 4.0)]
    states = [score(5.0), score(1.0), Score("failed", "timeout")]
    found = shaping.shaped_advantages(ends, states, AlignParams(energy_share=0.0))
    assert found == pytest.approx([1.0, -1.0, 0.0], abs=1e-6)


@pytest.fixture(scope="module")
def model():
    return load_model("packflow-open").model.eval()


def test_a_policy_that_knows_the_way_expects_the_candidate(model, monkeypatch):
    chemistry = TrainingSet.of_molecules([SMILES])
    params = AlignParams(group_size=4)
    rows = sample_group(model, "open", Group(0, SMILES, 2), params, 5)
    crystals = [crystal_of(row) for row in rows]
    rollouts = as_crystals(
        chemistry, [0] * 4, [2] * 4, [c.positions for c in crystals], [c.cell for c in crystals]
    )
    (draw,) = frozen_draws(rollouts, batch_plan(model), (0, 0))

    def knows(network, given):
        batch = given.batch
        state = interpolate(
            batch.x0, batch.lattice0, batch.noise_x, batch.noise_l, given.t, given.t
        )
        return state, state.v_x, state.v_l

    monkeypatch.setattr(shaping, "predicted_velocity", knows)
    for member, sample in zip(draw.members, shaping.clean_samples(model, draw), strict=True):
        assert sample.parameters == pytest.approx(
            cell_to_parameters(crystals[member].cell), rel=1e-4
        )
        k = draw.members.index(member)
        assert sample.positions == pytest.approx(draw.batch.x0[k].numpy(), abs=1e-4)
    estimates = shaping.estimate_rows(model, draw, [SMILES] * 4, [2] * 4)
    volumes = [rows[m]["volume_A3"] for m in draw.members]
    assert [r["volume_A3"] for r in estimates] == pytest.approx(volumes, rel=1e-3)


def test_candidates_of_a_family_part_at_the_restart(model):
    params = AlignParams(group_size=8, shared_prefix=4, part_at=0.3)
    rows = sample_group(model, "open", Group(0, SMILES, 2), params, 5)
    groups = [row["space_group_drawn"] for row in rows]
    assert groups[:4] == [groups[0]] * 4
    assert groups[4:] == [groups[4]] * 4
    cells = np.array([row["cell"] for row in rows])
    apart = np.abs(cells[:, None] - cells[None]).max(-1)
    assert apart[np.triu_indices(8, 1)].min() > 1e-3  # no two are alike
    whole = {row["index"]: row["positions"] for row in rows}
    alone = sample_group(
        model, "open", Group(0, SMILES, 2), params.model_copy(update={"group_size": 4}), 5
    )
    assert [row["positions"] for row in alone] == [whole[k] for k in range(4)]


def test_a_shared_prefix_fits_its_group():
    with pytest.raises(ValidationError, match="divide"):
        AlignParams(group_size=6, shared_prefix=4)
    with pytest.raises(ValidationError, match="replay"):
        AlignParams(group_size=8, shared_prefix=4, replay=2)


def test_draws_are_numbered(model):
    chemistry = TrainingSet.of_molecules([SMILES])
    rows = sample_group(model, "open", Group(0, SMILES, 2), AlignParams(group_size=2), 5)
    crystals = [crystal_of(row) for row in rows]
    rollouts = as_crystals(
        chemistry, [0] * 2, [2] * 2, [c.positions for c in crystals], [c.cell for c in crystals]
    )
    draws = frozen_draws(rollouts, batch_plan(model), (0, 0), draws=3)
    assert [draw.number for draw in draws] == [0, 1, 2]
    assert not torch.equal(draws[0].t, draws[1].t)
