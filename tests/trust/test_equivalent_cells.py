"""Cells that hold the same crystal, and ranks that doubt leaves open."""

import numpy as np
import pytest
from inline_pool import FormulaEngine

from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights, niggli_cell
from packflow_core.engines import registry
from packflow_core.trust.equivalent_cells import CELLS, energy_written_as, written_as
from packflow_core.trust.rank_doubt import rank_doubts


def shells(crystal, radius=6.0):
    """Sorted distances in Å of all atoms to the carbons of the first molecule."""
    reach = np.ceil(radius / heights(crystal.cell)).astype(int) + 1
    grid = np.stack(
        np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    first = crystal.positions[: len(crystal) // crystal.z][
        crystal.numbers[: len(crystal) // crystal.z] == 6
    ]
    everywhere = (crystal.positions[None] + (grid @ crystal.cell)[:, None]).reshape(-1, 3)
    distance = np.linalg.norm(everywhere[None] - first[:, None], axis=-1).reshape(-1)
    return np.sort(distance[distance < radius])


@pytest.fixture(scope="module")
def benzene(request):
    return read_cif(request.config.rootpath / "tests" / "data" / "benzene.cif")


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_holds_the_same_crystal(benzene, cell):
    written = written_as(benzene, cell)
    assert written.volume / written.z == pytest.approx(benzene.volume / benzene.z)
    found, wanted = shells(written), shells(benzene)
    assert len(found) == len(wanted) > 500
    assert found == pytest.approx(wanted, abs=1e-6)


def test_the_other_cell_is_another_one(benzene):
    other = written_as(benzene, "other_cell")
    assert np.abs(np.sort(other.parameters) - np.sort(benzene.parameters)).max() > 1.0
    moved = other.fractional.reshape(other.z, -1, 3).mean(axis=1)
    assert ((moved >= 0) & (moved < 1)).all()


def test_the_larger_cell_is_large():
    flat = Crystal([6], [[0.0, 0, 0]], np.array([[4.0, 0, 0], [9.0, 6.0, 0], [1.0, 2.0, 25.0]]))
    larger = written_as(flat, "larger")
    assert heights(larger.cell).min() >= 10.0 - 1e-6
    assert larger.z == np.prod(np.ceil(10.0 / heights(niggli_cell(flat.cell))))
    roomy = Crystal([6], [[0.0, 0, 0]], np.diag([12.0, 11.0, 15.0]))
    edges = np.sort(written_as(roomy, "larger").parameters[:3])
    assert edges == pytest.approx([12.0, 15.0, 22.0])


def test_an_engine_with_a_finite_size_error_is_found_out(benzene, monkeypatch):
    sound = FormulaEngine(lambda c: -2.0 * c.z)
    short = FormulaEngine(lambda c: c.z * (-2.0 + 0.1 / heights(niggli_cell(c.cell)).min()))
    for engine, differs in ((sound, False), (short, True)):
        monkeypatch.setattr(registry, "get_engine", lambda name, engine=engine: engine)
        energies = [energy_written_as("e", benzene, cell) for cell in CELLS]
        assert energies[0] == pytest.approx(energies[1], abs=1e-9)
        assert (abs(energies[2] - energies[0]) > 1e-3) == differs


def test_a_failure_is_told_not_raised(benzene, monkeypatch):
    monkeypatch.setattr(registry, "get_engine", lambda name: FormulaEngine(lambda c: float("nan")))
    assert energy_written_as("e", benzene, "again") == "the energy is not finite"


def test_an_unknown_cell_is_refused(benzene):
    with pytest.raises(ValueError, match="unknown"):
        written_as(benzene, "conventional")


def test_ranks_that_overlap_are_open():
    doubts = rank_doubts([0.0, 1.0, 1.5, 9.0], [0.5, 2.0, 3.0, 9.0])
    assert [(d.best, d.worst) for d in doubts] == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert [d.swaps_with for d in doubts] == [(), (2,), (1,), ()]


def test_a_wide_doubt_reaches_over_others():
    doubts = rank_doubts([0.0, 1.0, 2.0], [5.0, 1.1, 2.1])
    assert [(d.best, d.worst) for d in doubts] == [(1, 3), (1, 2), (2, 3)]
    with pytest.raises(ValueError, match="low and a high"):
        rank_doubts([1.0], [0.0])
