"""Lattice algebra against pymatgen, and the map of the flow."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice

from packflow_core.crystal.lattice import (
    cell_to_parameters,
    constrain,
    heights,
    is_valid_parameters,
    niggli_cell,
    parameters_to_cell,
    standard_frame,
    unconstrain,
)

lengths = st.floats(2.0, 40.0)
angles = st.floats(50.0, 130.0)
parameters = st.tuples(lengths, lengths, lengths, angles, angles, angles).filter(
    lambda p: is_valid_parameters(p) and np.linalg.det(parameters_to_cell(p)) > 1.0
)
quick = settings(deadline=None, max_examples=60)


@quick
@given(parameters)
def test_cell_is_that_of_pymatgen(p):
    cell = parameters_to_cell(p)
    assert cell == pytest.approx(Lattice.from_parameters(*p).matrix, abs=1e-9)
    assert np.linalg.det(cell) > 0


@quick
@given(parameters)
def test_parameters_survive_the_matrix(p):
    assert cell_to_parameters(parameters_to_cell(p)) == pytest.approx(np.array(p), rel=1e-9)


@quick
@given(parameters)
def test_heights_are_volume_over_face(p):
    a, b, c = cell = parameters_to_cell(p)
    volume = np.linalg.det(cell)
    faces = [np.linalg.norm(np.cross(u, v)) for u, v in ((b, c), (c, a), (a, b))]
    assert heights(cell) == pytest.approx(volume / np.array(faces), rel=1e-9)


def test_batches_agree_with_single_cells():
    p = np.array([[5.0, 6, 7, 80, 95, 110], [10.0, 4, 8, 90, 90, 60]])
    both = parameters_to_cell(p)
    assert both.shape == (2, 3, 3)
    assert (both[1] == parameters_to_cell(p[1])).all()
    assert cell_to_parameters(both) == pytest.approx(p)


@pytest.mark.parametrize(
    "p",
    [
        (5, 5, 5, 120, 120, 121),  # no three vectors have these angles
        (5, 5, 5, 120, 120, 120),  # flat
        (0, 5, 5, 90, 90, 90),
        (-5, 5, 5, 90, 90, 90),
        (5, 5, 5, 180, 90, 90),
        (5, np.nan, 5, 90, 90, 90),
    ],
)
def test_impossible_parameters_are_told(p):
    assert not is_valid_parameters(p)


def test_possible_parameters_are_told():
    assert is_valid_parameters((5, 6, 7, 60, 60, 60))
    assert is_valid_parameters((5, 6, 7, 119, 119, 119))


def test_angles_that_close_no_cell_give_nan():
    assert np.isnan(parameters_to_cell((5, 5, 5, 60, 60, 170))).any()


def test_unconstrain_clamps_at_60_and_120_degrees():
    low, high = -87.3365, 15.9424  # published code: logit of float32 tiny and of 1 - eps
    for angle in (60.0, 55.0):
        state = unconstrain([5, 6, 7, angle, 90, 90])
        assert state == pytest.approx([5, 6, 7, low, 0, 0], abs=1e-3)
    for angle in (120.0, 135.0):
        state = unconstrain([5, 6, 7, 90, angle, 90])
        assert state == pytest.approx([5, 6, 7, 0, high, 0], abs=1e-3)


@quick
@given(st.tuples(lengths, lengths, lengths, *[st.floats(60.01, 119.99)] * 3))
def test_constrain_inverts_unconstrain(p):
    assert constrain(unconstrain(p)) == pytest.approx(np.array(p), rel=1e-9)


def test_constrain_stays_in_range_and_keeps_lengths():
    p = constrain([-3.0, 0.0, 50.0, -1e4, 0.0, 1e4])
    assert p == pytest.approx([-3.0, 0.0, 50.0, 60.0, 90.0, 120.0])


@quick
@given(parameters, st.integers(0, 2**31))
def test_standard_frame_is_a_rotation(p, seed):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    cell, positions = parameters_to_cell(p), rng.normal(size=(5, 3)) * 4
    back, moved = standard_frame(cell @ rotation, positions @ rotation)
    assert back == pytest.approx(cell, abs=1e-8)
    assert moved == pytest.approx(positions, abs=1e-8)


@quick
@given(parameters, st.integers(0, 2**31))
def test_niggli_keeps_the_lattice(p, seed):
    rng = np.random.default_rng(seed)
    cell = parameters_to_cell(p)
    skew = np.eye(3, dtype=int)
    for _ in range(3):
        i, j = rng.choice(3, 2, replace=False)
        skew[i] += int(rng.integers(-2, 3)) * skew[j]
    skewed = skew @ cell
    assume(heights(skewed).min() > 0.5)
    reduced = niggli_cell(skewed)
    steps = reduced @ np.linalg.inv(cell)
    assert steps == pytest.approx(np.rint(steps), abs=1e-6)
    assert abs(np.linalg.det(np.rint(steps))) == pytest.approx(1.0)
    assert np.linalg.det(reduced) == pytest.approx(np.linalg.det(cell), rel=1e-9)
    p_reduced = cell_to_parameters(reduced)
    assert (p_reduced[3:] > 60 - 1e-2).all()
    assert (p_reduced[3:] < 120 + 1e-2).all()
    assert p_reduced[:3] == pytest.approx(
        sorted(Lattice(cell).get_niggli_reduced_lattice(tol=1e-5).abc), rel=1e-4
    )
