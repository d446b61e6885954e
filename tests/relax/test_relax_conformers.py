"""Conformers relaxed with an engine: sorted and pruned by its energies, failures told."""

import numpy as np
import pytest

from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_pool import make_ensemble
from packflow_core.chem.molecule import Molecule
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.errors import RunFailedError
from packflow_core.relax.relax_conformers import relax_conformers, relax_one
from packflow_core.workers import Outcome


class StubPool:
    """Stands for the workers: answers are given beforehand, and come back to front."""

    def __init__(self, answers):
        self.answers = answers

    def map(self, function, items, timeout_s):
        assert function is relax_one
        for key, (engine, _, positions) in reversed(list(items)):
            assert engine == "test"
            answer = self.answers[key]
            if isinstance(answer, tuple):
                yield Outcome(key, None, *answer, 0.1)
            elif isinstance(answer, str):
                yield Outcome(key, answer, None, "", 0.1)
            else:
                yield Outcome(key, (answer, positions), None, "", 0.1)


@pytest.fixture(scope="module")
def pentane():
    return make_ensemble(Molecule.from_smiles("CCCCC"), ConformerParams())


def relaxed(pool, answers, **fields):
    return relax_conformers(pool, "test", ConformerParams(**fields), StubPool(answers))


def test_energies_of_the_engine_decide(pentane):
    pool = relaxed(pentane, [-1.0, -1.2, -0.9, -1.1], window_kJ_mol=20.0)
    assert pool.energies == pytest.approx([0.0, 0.1 * EV_TO_KJ_MOL, 0.2 * EV_TO_KJ_MOL])
    assert pool.positions[:, :5] == pytest.approx(pentane.positions[[1, 3, 0], :5], abs=1e-9)
    assert (pool.method, pool.counts.outside) == ("test", 1)
    assert pool.found.tolist() == pentane.found[[1, 3, 0]].tolist()


def test_conformers_that_fall_together_are_one(pentane):
    doubled = ConformerEnsemble(
        pentane.molecule, np.repeat(pentane.positions, 2, axis=0), np.zeros(8), "MMFF94s"
    )
    pool = relaxed(doubled, [-1.0, -1.1] * 4)
    assert len(pool) == 4
    assert pool.counts.duplicates == 4
    assert pool.energies.tolist() == [0.0] * 4


def test_failures_are_told_and_cost_only_themselves(pentane):
    answers = [-1.0, "the molecule did not relax in 1000 steps", ("worker_lost", ""), -1.1]
    pool = relaxed(pentane, answers)
    assert len(pool) == 2
    assert pool.notes[:2] == (
        "Conformer 1 of the search was not relaxed: the molecule did not relax in 1000 steps.",
        "Conformer 2 of the search was not relaxed: worker_lost.",
    )
    with pytest.raises(RunFailedError, match=r"could relax none of the 4 conformers.*no weights"):
        relaxed(pentane, ["no weights"] * 4)


def test_gfnff_relaxes_butane():
    pool = make_ensemble(Molecule.from_smiles("CCCC"), ConformerParams())
    found = [relax_one("gfnff", pool.molecule.numbers_h, x) for x in pool.positions]
    energies = [EV_TO_KJ_MOL * energy for energy, _ in found]
    # Anti is the lowest; gauche lies 2 to 4 kJ/mol above by experiment and theory.
    assert 1.0 < energies[1] - energies[0] < 6.0
    assert found[0][1].shape == pool.positions[0].shape
