"""Advantages, penalties, memory and molecules of an alignment."""

import numpy as np
import pytest
import torch

from packflow_core.align import gain, validation
from packflow_core.align.advantages import mixed_advantages, normal_scores, standardised
from packflow_core.align.memory import DiversityFilter, ReplayBuffer
from packflow_core.align.molecules import read_molecules
from packflow_core.align.objective import clipped_objective, divergence, importance_ratio
from packflow_core.align.params import AlignParams
from packflow_core.align.rewards import Score, evaluated, group_rewards, score_candidates
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.engines.base import EngineError, EngineMemoryError
from packflow_core.engines.springs import SpringsEngine
from packflow_core.errors import UserInputError
from packflow_core.store.rows import crystal_of
from packflow_core.store.schema import Reason
from packflow_core.training.data import TrainingSet

UREA = Molecule.from_smiles("NC(N)=O")


def row(spacing, z=2, stretch=1.0):
    """Molecules of urea in a row, `spacing` Å apart; `stretch` pulls the atoms apart."""
    heavy = conformer_pool(UREA, 1, 0).positions[0][: UREA.n_heavy]
    one = (heavy - heavy.mean(0)) * stretch
    shifts = np.arange(z)[:, None, None] * np.array([0.0, 0.0, spacing])
    positions = one[None] + shifts
    cell = np.diag([9.0, 9.0, spacing * z])
    return {
        "status": "ok", "reason": "", "detail": "", "z": z, "candidate_id": "u",
        "numbers": np.tile(UREA.numbers, z).tolist(), "positions": positions.ravel().tolist(),
        "cell": cell.ravel().tolist(), "method": "packflow",
    }  # fmt: skip


def score(made, engine="springs", mode="hydrogens"):
    found = [x for x in score_candidates([(0, made)], UREA.smiles, engine, mode, 3) if x]
    assert [key for key, _ in found] == [0]
    return found[0][1]


def test_a_channel_without_weight_does_not_count():
    energies, forces = [1.0, 2.0, 4.0], [5.0, 1.0, 3.0]
    assert mixed_advantages(energies, forces, 1.0) == pytest.approx(-standardised(energies))
    assert mixed_advantages(energies, [7.0, 7.0, 7.0], 0.5) == pytest.approx(
        -0.5 * standardised(energies)
    )


def test_ranks_are_not_squeezed_by_one_huge_force():
    """Quantiles of five values: those of R's qnorm(ppoints(5, a = 3/8)), mirrored."""
    forces = [3.0, 1e4, 1.0, np.nan, 2.0, 4.0]
    by_rank = mixed_advantages(forces, forces, 0.0, ranks=True)
    expected = np.array([0.0, -1.179761, 1.179761, 0.0, 0.497201, -0.497201])
    scale = np.std(np.delete(expected, 3))
    assert by_rank == pytest.approx(expected / scale, abs=1e-5)
    by_value = mixed_advantages(forces, forces, 0.0)
    assert by_value[2] - by_value[5] < 0.01 < by_rank[2] - by_rank[5]
    tied = normal_scores([1.0, 1.0, 2.0])
    assert tied[0] == tied[1] < tied[2]


def test_advantages_do_not_depend_on_failed_candidates():
    with_failed = mixed_advantages([1.0, np.nan, 2.0, 4.0], [1.0, 2.0, 2.0, 9.0], 0.5)
    assert with_failed[1] == 0.0
    assert np.delete(with_failed, 1) == pytest.approx(
        mixed_advantages([1.0, 2.0, 4.0], [1.0, 2.0, 9.0], 0.5)
    )
    assert not mixed_advantages([1.0, np.nan], [1.0, np.nan], 0.5).any()


def test_unsound_candidates_are_worse_than_the_worst_by_their_severity():
    scores = [
        Score("ok", energy=1.0, force=1.0), Score("ok", energy=3.0, force=2.0),
        Score("rejected", "clash", severity=0.1), Score("rejected", "clash", severity=0.7),
        Score("failed", "timeout"),
    ]  # fmt: skip
    energies, _ = group_rewards(scores, penalise=True)
    assert energies[:2].tolist() == [1.0, 3.0]
    assert 3.0 < energies[2] < energies[3]
    assert np.isnan(energies[4])
    assert np.isnan(group_rewards(scores, penalise=False)[0][2:]).all()
    torn = [Score("rejected", "clash", severity=s) for s in (0.5, 0.1)]
    assert np.argmax(mixed_advantages(*group_rewards(torn, penalise=True), 1.0)) == 1


def test_validation_counts_clashes_bonds_and_volumes(monkeypatch):
    made = [row(8.0), row(0.9), row(8.0, stretch=1.6), {**row(8.0), "status": "rejected"}]
    monkeypatch.setattr(validation, "sample_group", lambda *given: made)
    chemistry = TrainingSet.of_molecules([UREA.smiles])
    quality = validation.RawQuality(chemistry, "open", AlignParams(z=(2,)))
    found = quality(None)
    assert tuple(found) == quality.names
    assert found["val_cells"] == 0.75
    assert found["val_clash"] == pytest.approx(1 / 3)
    assert found["val_bonds"] == pytest.approx(2 / 3)
    volumes = [9.0 * 9.0 * spacing for spacing in (8.0, 0.9, 8.0)]
    assert found["val_volume"] == pytest.approx(np.mean(volumes) / chemistry.molecule_volumes[0])


def test_a_gain_is_measured_against_the_reference_molecule_by_molecule(monkeypatch):
    """Energies of two molecules 100 eV apart: only differences of the same one count."""
    energies = {
        "before": [[1.0, 2.0, 6.0], [101.0, 102.0, 103.0], [5.0]],
        "after": [[0.5, 1.0, None], [101.5, 103.0, 103.5], [None]],
    }
    asked = []

    def scores(made, engine, mode, hydrogen_steps, pool):
        made = list(made)
        asked.append(made[0][1])
        return [
            [Score("failed") if e is None else Score("ok", energy=e, force=2 * e) for e in group]
            for group in energies[made[0][1]]
        ]

    monkeypatch.setattr(gain, "sample_group", lambda model, *given: model)
    monkeypatch.setattr(gain, "score_groups", scores)
    chemistry = TrainingSet.of_molecules([UREA.smiles, "CCO", "CC=O"])
    watch = gain.RewardGain(chemistry, "open", AlignParams(z=(2,)), "before", pool=None)
    found = watch("after")
    assert tuple(found) == watch.names
    assert found["val_sound"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    medians, lowest = [0.75 - 2.0, 103.0 - 102.0], [0.5 - 1.0, 101.5 - 101.0]
    assert found["val_energy"] == pytest.approx(96.48533 * np.mean(medians))
    assert found["val_lowest"] == pytest.approx(96.48533 * np.mean(lowest))
    assert found["val_force"] == pytest.approx(2 * np.mean(medians))
    assert watch("before")["val_energy"] == 0.0
    assert asked == ["before", "after", "before"]  # the reference once


def test_validations_join_their_columns():
    class Part:
        def __init__(self, name, value):
            self.names, self.value = (name,), value

        def __call__(self, model):
            return {self.names[0]: self.value * model}

    both = validation.Validations(Part("a", 1.0), Part("b", 2.0))
    assert both.names == ("a", "b")
    assert both(3) == {"a": 3.0, "b": 6.0}


class _Engine(SpringsEngine):
    """Springs in batches of at most two crystals, which cannot prepare cells shorter than 5.5 Å."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def atoms_per_call(self):
        return 1000

    def prepare(self, crystal):
        if crystal.cell[2, 2] < 11.0:
            raise EngineError(Reason.ENGINE, "too short")
        return super().prepare(crystal)

    def compute(self, prepared, positions, cells, n_atoms):
        self.calls.append(len(prepared))
        if len(prepared) > 2:
            raise EngineMemoryError("too many")
        return super().compute(prepared, positions, cells, n_atoms)


def test_a_batch_that_does_not_fit_is_halved_and_a_bad_crystal_spoils_no_other():
    engine = _Engine()
    crystals = {k: crystal_of(row(s)) for k, s in enumerate((6.0, 5.0, 7.0, 8.0, 9.0))}
    found = dict(evaluated(crystals, engine))
    assert engine.calls == [4, 2, 2]
    assert (found[1].status, found[1].reason) == ("failed", "engine_error")
    for k in (0, 2, 3, 4):
        alone = SpringsEngine().evaluate([crystals[k]])
        assert found[k].energy == pytest.approx(float(alone.energies[0]) / 2)
        assert found[k].force == pytest.approx(np.linalg.norm(alone.forces, axis=1).mean())


def test_a_clash_and_a_torn_molecule_are_unsound_and_graded():
    sound, near, nearer = score(row(5.0)), score(row(1.6)), score(row(5.0, stretch=1.6))
    assert sound.status == "ok"
    assert np.isfinite([sound.energy, sound.force]).all()
    assert (near.status, near.reason) == ("rejected", "clash")
    assert (nearer.status, nearer.reason) == ("rejected", "broken_molecule")
    assert near.severity > 0
    assert nearer.severity >= 1.0  # all bonds are off


def test_the_energy_is_that_of_one_molecule():
    assert score(row(6.0, z=1)).energy == pytest.approx(score(row(6.0, z=2)).energy, abs=1e-4)


def test_ratio_and_divergence_of_equal_policies():
    losses = torch.tensor([1.0, 40.0])
    assert importance_ratio(losses, losses).tolist() == [1.0, 1.0]
    assert divergence(losses, losses).tolist() == [0.0, 0.0]
    assert (divergence(losses + 0.1, losses) > 0).all()
    assert (divergence(losses - 0.1, losses) > 0).all()


def test_the_clip_removes_the_gradient_where_there_is_nothing_more_to_gain():
    old = torch.zeros(2)
    new = torch.tensor([-0.5, 0.5], requires_grad=True)  # ratios 1.65 and 0.61
    clipped_objective(new, old, old, torch.tensor([1.0, 1.0]), kl_weight=0.0).loss.backward()
    assert new.grad[0] == 0.0
    assert new.grad[1] > 0.0  # its loss falls: the candidate becomes likelier


def test_the_best_are_replayed_and_come_back_from_a_state():
    buffer = ReplayBuffer()
    made = [(row(5.0), Score("ok", energy=e, force=1.0)) for e in (3.0, 1.0, 2.0)]
    buffer.put("urea 2", [*made, (row(5.0), Score("failed", "nan"))])
    again = ReplayBuffer(buffer.content)
    assert [s.energy for _, s in again.take("urea 2", 2)] == [1.0, 2.0]
    assert again.take("urea 4", 2) == []


def test_a_worn_packing_fades_and_a_new_one_does_not():
    worn = DiversityFilter()
    factors = [float(worn.factors("k", [row(5.0)])[0]) for _ in range(6)]
    assert factors == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3, 0.0, 0.0])
    assert worn.factors("k", [row(7.0)])[0] == 1.0
    assert DiversityFilter(worn.content).factors("k", [row(5.0)])[0] == 0.0


def test_molecules_of_a_file(tmp_path):
    path = tmp_path / "ours.smi"
    path.write_text("# ours\nOCC ethanol\n\nNC(=O)N urea\nCCO\n")
    assert read_molecules(path).smiles == ["CCO", "NC(N)=O"]
    path.write_text("CCO\nnot-a-molecule\n")
    with pytest.raises(UserInputError, match="Line 2"):
        read_molecules(path)
    path.write_text("\n")
    with pytest.raises(UserInputError, match="no molecule"):
        read_molecules(path)
