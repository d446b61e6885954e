"""Free energies of structures: their order, their price, and what a kill costs."""

import numpy as np
import pytest
from inline_pool import InlinePool
from lj_crystals import ArgonEngine, argon, by_hessian, fcc

from packflow_core.engines import registry
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.errors import UserInputError
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.rows import crystal_columns
from packflow_core.trust.free_energy import free_energies
from packflow_core.trust.free_energy_table import free_energy_findings
from packflow_core.trust.harmonic import modes_of
from packflow_core.trust.tight_relaxation import tighter
from packflow_core.trust.verify import Means

pytest.importorskip("phonopy")

CRYSTALS = [fcc(), fcc(5.15), argon(3, 1.0)]


def rows():
    return [
        {
            "candidate_id": f"ar-{k}", "index": k, "rank": k + 1, "cluster": k + 1,
            "energy_eV": -0.3 + 0.01 * k, "lattice_energy_rel_kJ_mol": 0.2 * k,
            **crystal_columns(crystal),
        }
        for k, crystal in enumerate(CRYSTALS)
    ]  # fmt: skip


def stays(engine, crystal, smiles, params):
    """A tighter relaxation that has nothing to do; the third structure breaks."""
    energy = float(ArgonEngine().evaluate([crystal]).energies[0])
    broken = abs(crystal.cell[1, 0]) > 0.1
    return {
        "status": "failed" if broken else "ok", "reason": "exploded" if broken else "",
        "detail": "far too large" if broken else "", "energy_eV": energy, "fmax_eV_A": 0.0,
        "stress_GPa": 0.0, "n_steps": 0, "positions": crystal.positions.reshape(-1).tolist(),
        "cell": crystal.cell.reshape(-1).tolist(),
    }  # fmt: skip


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    monkeypatch.setattr(registry, "get_engine", lambda name: ArgonEngine())


def made(folder, temperature=60.0, supercell=(1, 1, 1), approve=None, **kwargs):
    pool = InlinePool(instead={"relax_tightly": stays}, **kwargs)
    prices = []
    found = free_energies(
        rows(), folder, Means("argon", "argon (1)", pool, 10.0), "C", tighter(RelaxParams()),
        temperature, supercell, approve or prices.append, [5.0, 6.0, 7.0],
    )  # fmt: skip
    return found, pool, prices


def test_free_energies_are_the_sum_over_all_modes(tmp_path):
    found, _, [price] = made(tmp_path)
    first, second, third = found.rows
    for row, crystal in zip(found.rows[:2], CRYSTALS, strict=False):
        modes = modes_of(by_hessian(crystal, (1, 1, 1), ArgonEngine()))
        wanted = modes.free_energy(60.0) * EV_TO_KJ_MOL / 4
        assert row["vibrational_kJ_mol"] == pytest.approx(wanted, abs=2e-4)
        assert row["vibrational_curve_kJ_mol"][0] == row["zero_point_kJ_mol"]
        assert (row["symmetry"], row["n_displacements"]) == ("Fm-3m", 1)
        assert len(row["frequencies_cm1"]) == 9
    energies = [float(ArgonEngine().evaluate([c]).energies[0]) / 4 for c in CRYSTALS]
    static = EV_TO_KJ_MOL * (energies[1] - energies[0])
    # The denser one is stiffer: its vibrations cost more.
    assert second["static_rel_kJ_mol"] == pytest.approx(static)
    gap = second["vibrational_kJ_mol"] - first["vibrational_kJ_mol"]
    assert gap > 0.05
    assert second["free_energy_rel_kJ_mol"] == pytest.approx(static + gap)
    assert (first["free_energy_rank"], second["free_energy_rank"]) == (1, 2)
    assert third.get("free_energy_rank") is None
    assert third["problem"] == ("the tighter relaxation did not end ok (exploded: far too large)")
    assert any("Rank 3 has no free energy" in sentence for sentence in found.findings)
    assert price.relaxations == 3
    assert price.relaxation_s == 18.0
    assert price.force_calls == 1 + 1 + 24


def test_another_temperature_costs_nothing(tmp_path):
    cold, _, _ = made(tmp_path)
    warm, pool, [price] = made(tmp_path, temperature=90.0)
    assert pool.count("relax_tightly") == pool.count("forces_of") == 0
    assert (price.relaxations, price.force_calls) == (0, 0)
    assert warm.rows[0]["vibrational_kJ_mol"] < cold.rows[0]["vibrational_kJ_mol"]


def test_nothing_dear_happens_before_the_price_is_agreed_to(tmp_path):
    def refuse(price):
        raise UserInputError(str(price))

    with pytest.raises(UserInputError, match="26 force calls"):
        made(tmp_path, approve=refuse)
    _, pool, _ = made(tmp_path)
    assert pool.count("relax_tightly") == 3


def test_a_kill_costs_what_was_in_the_air(tmp_path):
    unbroken, whole, _ = made(tmp_path / "a", supercell=None)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "b", supercell=None, die_after=len(whole.calls) - 4)
    found, pool, _ = made(tmp_path / "b", supercell=None)
    assert found == unbroken
    assert pool.count("relax_tightly") == 0


def test_a_lost_force_costs_its_structure_alone(tmp_path):
    found, _, _ = made(tmp_path, faults={("forces_of", (0, 0)): "worker_lost"})
    assert found.rows[0]["problem"] == "a force call failed: worker_lost: in words"
    assert found.rows[1]["free_energy_rank"] == 1


def test_supercells_of_different_size_are_called_so(tmp_path):
    found, _, _ = made(tmp_path)
    told = [dict(row) for row in found.rows]
    assert not any("different numbers" in s for s in free_energy_findings(told))
    told[1]["n_molecules"] = 8
    assert any("different numbers" in s for s in free_energy_findings(told))
    told[1]["n_imaginary"], told[1]["lowest_cm1"] = 2, -31.0
    assert any("2 imaginary modes (the lowest 31i 1/cm)" in s for s in free_energy_findings(told))
    assert np.isfinite(told[0]["vibrational_curve_kJ_mol"]).all()
