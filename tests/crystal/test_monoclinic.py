"""The upright setting of monoclinic cells, and its operations."""

import gemmi
import numpy as np
import pytest

from packflow_core.crystal.lattice import cell_to_parameters, parameters_to_cell
from packflow_core.crystal.monoclinic import operation_of, upright_setting


def operations(name: str):
    group = gemmi.find_spacegroup_by_name(name)
    seitz = np.array([op.float_seitz() for op in group.operations()])
    return seitz[:, :3, :3].astype(np.int64), seitz[:, :3, 3]


def skewed(cell: np.ndarray) -> np.ndarray:
    """The same lattice with c replaced by a + c."""
    return np.array([cell[0], cell[1], cell[0] + cell[2]])


@pytest.mark.parametrize(
    ("upright", "given"),
    [
        ("P 1 21/n 1", "P 1 21/c 1"),
        ("P 1 n 1", "P 1 c 1"),
        ("I 1 2/a 1", "C 1 2/c 1"),
        ("P 1 21 1", "P 1 21 1"),
    ],
)
def test_the_upright_cell_is_found_from_a_skewed_one(upright, given):
    cell = parameters_to_cell([8.0, 11.0, 9.5, 90, 93, 90])
    rotations, translations = operations(upright)
    # The skewed cell and its operations, by the change of basis alone.
    change = np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, 1]])
    turn = np.linalg.inv(change).T
    before = np.rint(turn @ rotations @ change.T).astype(np.int64)
    found = upright_setting(skewed(cell), before, (translations @ turn.T) % 1.0)
    assert cell_to_parameters(found.cell) == pytest.approx([8.0, 11.0, 9.5, 90, 93, 90])
    ops = [operation_of(r, t) for r, t in zip(found.rotations, found.translations, strict=True)]
    group = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(ops))
    assert group.number == gemmi.find_spacegroup_by_name(given).number
    # The lattice is the same, and points keep their places in space.
    steps = found.cell @ np.linalg.inv(skewed(cell))
    assert steps == pytest.approx(np.rint(steps))
    assert np.linalg.det(steps) == pytest.approx(1.0)
    x = np.array([0.1, 0.2, 0.3])
    assert (found.change @ x) @ found.cell == pytest.approx(x @ skewed(cell))


def test_an_upright_cell_stays_as_it_is():
    cell = parameters_to_cell([8.0, 11.0, 9.5, 90, 104, 90])
    rotations, translations = operations("P 1 21/c 1")
    found = upright_setting(cell, rotations, translations)
    assert found.cell is cell
    assert (found.change == np.eye(3)).all()
