import pickle

import numpy as np
import pytest

from packflow_core.engines.base import (
    EV_A3_TO_GPA,
    EV_TO_KJ_MOL,
    EngineError,
    boxed,
    concatenate,
)
from packflow_core.store.schema import Reason


def test_units():
    assert pytest.approx(160.21766, abs=1e-4) == EV_A3_TO_GPA
    assert pytest.approx(96.48533, abs=1e-4) == EV_TO_KJ_MOL


def test_a_batch_hands_out_the_forces_of_each_crystal():
    forces = [np.full((2, 3), 1.0), np.full((4, 3), 2.0)]
    result = concatenate([1.0, 2.0], forces, [np.eye(3), 2 * np.eye(3)])
    assert result.energies.shape == (2,)
    assert result.forces.shape == (6, 3)
    assert result.stress.shape == (2, 3, 3)
    for k in range(2):
        np.testing.assert_array_equal(result.forces_of(k), forces[k])
    assert concatenate([], [], []).forces.shape == (0, 3)


def test_errors_survive_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(EngineError(Reason.CLASH, "too close")))
    assert (error.reason, error.detail) == (Reason.CLASH, "too close")
    assert str(error) == "clash: too close"


def test_a_boxed_molecule_is_far_from_its_images():
    small = boxed([6, 8], [[100.0, 0, 0], [101.2, 0, 0]])
    assert small.cell.tolist() == (np.eye(3) * 25.0).tolist()
    np.testing.assert_allclose(small.positions.mean(axis=0), 12.5)
    long = boxed([6, 6], [[0.0, 0, 0], [20.0, 0, 0]])
    assert long.cell[0, 0] == pytest.approx(32.0)
