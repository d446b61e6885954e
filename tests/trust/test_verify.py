"""The guards: what they attach, what they keep, and what a kill costs."""

import numpy as np
import pytest
from inline_pool import InlinePool

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.rows import crystal_columns
from packflow_core.trust.records import Records
from packflow_core.trust.tight_relaxation import tighter
from packflow_core.trust.verify import RECORDS_FOLDER, Means, verify

PARAMS = tighter(RelaxParams())


def ranked(n=3):
    """Structures 1 kJ/mol apart, two molecules each."""
    rows = []
    for k in range(n):
        crystal = Crystal([6, 6], [[0, 0, 0], [3.0, 0, 0]], np.diag([6.0 + k, 7.0, 8.0]), 2)
        energy = 2 * (-5.0 + k / EV_TO_KJ_MOL)
        rows.append(
            {
                "candidate_id": f"x-{k}", "index": k, "rank": k + 1, "cluster": k + 1,
                "lattice_energy_rel_kJ_mol": float(k), "energy_eV": energy,
                **crystal_columns(crystal),
            }
        )  # fmt: skip
    return rows


def place(crystal):
    return round(crystal.cell[0, 0]) - 6


def in_cell(engine, crystal, cell):
    """The first structure rises by 1.5 kJ/mol in the larger cell, the others stay."""
    rise = 1.5 if cell == "larger" and place(crystal) == 0 else 0.0
    return -5.0 + (place(crystal) + rise) / EV_TO_KJ_MOL


def relaxed(engine, crystal, smiles, params):
    """The last structure sinks below all others and shrinks by a fifth along b."""
    sinks = 3.0 if place(crystal) == 2 else 0.1
    cell = crystal.cell * np.array([1.0, 0.8 if sinks > 1 else 1.0, 1.0])[:, None]
    energy = 2 * (-5.0 + (place(crystal) - sinks) / EV_TO_KJ_MOL)
    return {
        "status": "ok", "reason": "", "detail": "", "energy_eV": energy, "fmax_eV_A": 0.001,
        "stress_GPa": 0.01, "n_steps": 9, "positions": crystal.positions.reshape(-1).tolist(),
        "cell": cell.reshape(-1).tolist(),
    }  # fmt: skip


def checked(folder, rows=None, tight=PARAMS, **kwargs):
    pool = InlinePool(instead={"energy_written_as": in_cell, "relax_tightly": relaxed}, **kwargs)
    found = verify(rows or ranked(), folder, Means("e", "e (1)", pool, 10.0), tight, "C")
    return found, pool


def test_what_is_attached(tmp_path):
    found, _ = checked(tmp_path)
    first, _, third = found.rows
    assert first["larger_kJ_mol"] == pytest.approx(1.5)
    assert [row["energy_spread_kJ_mol"] for row in found.rows] == pytest.approx([1.5, 0, 0])
    assert [(row["rank_best"], row["rank_worst"]) for row in found.rows] == [(1, 2), (1, 2), (3, 3)]
    assert (first["swaps_with"], third["swaps_with"]) == ([2], [])
    assert [row["larger_rank"] for row in found.rows] == [2, 1, 3]
    assert third["tight_change_kJ_mol"] == pytest.approx(-3.0)
    assert third["tight_volume_change_percent"] == pytest.approx(-20.0)
    assert [row["tight_rank"] for row in found.rows] == [2, 3, 1]
    told = " ".join(found.findings)
    assert "differ by up to 1.5 kJ/mol (rank 1)" in told
    assert "ranks 1, 2 may change places" in told
    assert "In larger cells their order becomes 2, 1, 3" in told
    assert "Relaxed tighter their order becomes 3, 1, 2" in told
    assert "volumes by up to -20.00 % (rank 3)" in told


def test_a_second_look_computes_nothing(tmp_path):
    before, _ = checked(tmp_path)
    after, pool = checked(tmp_path)
    assert (after, pool.calls) == (before, [])
    more, pool = checked(tmp_path, ranked(4))
    assert len(more.rows) == 4
    assert len(pool.calls) == 4  # three cells and a relaxation of the new one


@pytest.mark.parametrize("calls", [0, 4, 10])
def test_a_kill_costs_what_was_in_the_air(tmp_path, calls):
    unbroken, _ = checked(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        checked(tmp_path / "b", die_after=calls)
    found, pool = checked(tmp_path / "b")
    assert found == unbroken
    assert len(pool.calls) == 12 - calls


def test_a_timeout_is_told_and_tried_again(tmp_path):
    faults = {("energy_written_as", (1, "larger")): "timeout", ("relax_tightly", (0, "tight")): "x"}
    found, _ = checked(tmp_path, faults=faults)
    assert found.rows[1]["energy_problem"] == "larger: timeout: in words"
    assert found.rows[1]["larger_kJ_mol"] is None
    assert found.rows[1]["energy_spread_kJ_mol"] == pytest.approx(0.0)
    assert (found.rows[0]["tight_status"], found.rows[0]["tight_problem"]) == (
        "failed",
        "x: in words",
    )
    assert any("Rank 1 did not end ok" in sentence for sentence in found.findings)
    again, pool = checked(tmp_path)
    assert len(pool.calls) == 2
    assert again.rows[1]["energy_problem"] == ""


def test_what_an_engine_cannot_do_is_kept(tmp_path, monkeypatch):
    pool = InlinePool(instead={"energy_written_as": lambda *a: "too many atoms"})
    means = Means("e", "e (1)", pool, 10.0)
    found = verify(ranked(1), tmp_path, means)
    assert found.rows[0]["energy_spread_kJ_mol"] is None
    assert found.rows[0]["energy_problem"].startswith("again: too many atoms; other_cell: too")
    verify(ranked(1), tmp_path, means)
    assert len(pool.calls) == 3


def test_another_engine_shares_nothing(tmp_path):
    checked(tmp_path)
    pool = InlinePool(instead={"energy_written_as": in_cell})
    verify(ranked(), tmp_path, Means("e", "e (2)", pool, 10.0))
    assert len(pool.calls) == 9


def test_tighter_parameters():
    assert (PARAMS.fmax, PARAMS.max_stress_GPa) == (0.01, 0.02)
    paper = tighter(RelaxParams(protocol="paper"))
    assert (paper.protocol, paper.fmax, paper.max_stress_GPa) == ("converged", 0.01, 0.02)
    assert paper.exp_cell_factor == "sqrt_atoms"


def test_a_torn_record_is_computed_again(tmp_path):
    with Records(tmp_path / RECORDS_FOLDER) as records:
        records.add("a", {"x": 1}, np.arange(3.0))
        [journal] = (tmp_path / RECORDS_FOLDER).glob("*.journal")
        whole = journal.read_bytes()
        records.add("b", {"x": 2})
        torn = journal.read_bytes()[: len(whole) + 20]
    (tmp_path / RECORDS_FOLDER / "records.parquet").unlink()
    journal.write_bytes(torn)
    found = Records(tmp_path / RECORDS_FOLDER)
    assert "b" not in found
    assert found.get("a").array.tolist() == [0.0, 1.0, 2.0]
