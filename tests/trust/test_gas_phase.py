"""The gas-phase reference: the lowest conformer counts, and no engine can end a run."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inline_pool import FormulaEngine, InlinePool

from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_search import search_conformers
from packflow_core.chem.molecule import Molecule
from packflow_core.engines import registry
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.engines.gfnff import GFNFFEngine
from packflow_core.store.journal import rows_to_batch
from packflow_core.store.schema import stage_schema
from packflow_core.trust import gas_phase as module
from packflow_core.trust.gas_phase import (
    GasPhase,
    compute_gas_phase,
    gas_phase_key,
    infinite_box,
    relax_molecule,
    search_molecule,
)
from packflow_core.trust.gas_phase_file import (
    GAS_PHASE_FILE,
    SHARE_VARIABLE,
    read_gas_phase,
    read_shared,
    write_gas_phase,
    write_shared,
)
from packflow_core.trust.lattice_energy import (
    METADATA_KEY,
    lattice_energy,
    with_lattice_energies,
    with_reference,
)

BUTANE = "CCCC"


def computed(energies, **kwargs):
    """A reference from three conformers that relax to these energies, or to a text."""

    def search(smiles):
        return [1], [np.full((1, 3), float(k)) for k in range(len(energies))]

    def relax(smiles, engine, numbers, start):
        value = energies[int(start[0, 0])]
        if isinstance(value, Exception):
            raise value
        return value if isinstance(value, str) else (value, value - 0.01, start)

    pool = InlinePool(instead={"search_molecule": search, "relax_molecule": relax}, **kwargs)
    return compute_gas_phase("C", "e", "e (1)", pool, 10.0), pool


def test_the_lowest_of_the_conformers_counts():
    gas, _ = computed([-2.0, -2.3, -2.1])
    assert gas.energy_eV == -2.3
    assert gas.positions == (1.0, 1.0, 1.0)
    assert gas.conformer_energies_kJ_mol == pytest.approx(
        [0.0, 0.2 * EV_TO_KJ_MOL, 0.3 * EV_TO_KJ_MOL], abs=1e-4
    )
    assert gas.box_correction_kJ_mol == pytest.approx(0.01 * EV_TO_KJ_MOL)
    assert (gas.n_conformers, gas.n_relaxed, gas.reason) == (3, 3, "")


def test_conformers_that_fail_cost_themselves_alone():
    gas, _ = computed(["scf", -2.3, RuntimeError("broke")])
    assert (gas.energy_eV, gas.n_conformers, gas.n_relaxed) == (-2.3, 3, 1)


def test_an_engine_that_hangs_is_given_up_after_three_conformers():
    faults = {("relax_molecule", k): "timeout" for k in range(9)}
    gas, pool = computed([-1.0] * 9, faults=faults)
    assert gas.energy_eV is None
    assert pool.count("relax_molecule") == 3
    assert "None of 3 conformers" in gas.reason
    assert "timeout: in words" in gas.reason


def test_a_molecule_without_conformers_has_a_reason():
    pool = InlinePool(instead={"search_molecule": lambda smiles: "it cannot be embedded"})
    gas = compute_gas_phase("C", "e", "e (1)", pool, 10.0)
    assert gas.reason == "No conformer could be made (it cannot be embedded)."


def test_two_boxes_give_the_limit_of_an_infinite_one():
    # What images of a dipole do: an error that goes with 1 / volume.
    engine = FormulaEngine(lambda crystal: -3.0 - 40.0 / crystal.volume)
    found = infinite_box(engine, np.array([6]), np.zeros((1, 3)))
    assert found == pytest.approx(-3.0, abs=1e-12)


def test_the_box_of_a_polar_molecule_is_worth_correcting():
    """The limit from boxes of 25 and 35 Å against one of 120 Å, which is far dearer elsewhere."""
    from packflow_core.engines.base import boxed

    engine = GFNFFEngine()
    numbers, starts = search_molecule("NC(N)=O")
    found = infinite_box(engine, np.array(numbers), starts[0])
    small, huge = (
        float(engine.evaluate([boxed(numbers, starts[0], box)]).energies[0])
        for box in (25.0, 120.0)
    )
    assert abs(small - huge) * EV_TO_KJ_MOL > 0.05
    assert abs(found - huge) * EV_TO_KJ_MOL < 0.01


def test_the_reference_of_a_flexible_molecule_is_its_lowest_conformer():
    """Butane by mcGFN-FF: anti below gauche, wherever the search begins."""
    numbers, starts = search_molecule(BUTANE)
    assert len(starts) == 2
    pool = InlinePool(instead={"search_molecule": lambda smiles: (numbers, starts[::-1])})
    gas = compute_gas_phase(BUTANE, "gfnff", "gfnff (1)", pool, 60.0)
    carbons = np.array(gas.positions).reshape(-1, 3)[:4]
    assert np.linalg.norm(carbons[:, None] - carbons[None], axis=-1).max() > 3.8  # anti
    assert gas.conformer_energies_kJ_mol[1] == pytest.approx(2.8, abs=1.5)  # measured: 2.8


def test_a_molecule_that_changes_is_no_reference(monkeypatch):
    from packflow_core.relax import relaxation

    molecule = Molecule.from_smiles(BUTANE)
    start = search_conformers(molecule, ConformerParams()).positions[0]
    stretched = start.copy()
    stretched[-1] += 3.0
    monkeypatch.setattr(relaxation, "gas_phase", lambda *a: (-1.0, stretched))
    monkeypatch.setattr(registry, "get_engine", lambda name: FormulaEngine(lambda crystal: -1.0))
    found = relax_molecule(BUTANE, "e", molecule.numbers_h.tolist(), start)
    assert found == "the molecule changed its bonds when it was relaxed alone"


def reference(**values):
    key = gas_phase_key(BUTANE, "gfnff (1)")
    return GasPhase(key, BUTANE, "gfnff (1)", -1.1 / 3, positions=(0.1 + 0.2, 1e-17), **values)


def test_a_reference_comes_back_to_the_last_bit(tmp_path):
    gas = reference(n_relaxed=1)
    write_gas_phase(tmp_path, gas)
    assert read_gas_phase(tmp_path, gas.key) == gas
    assert read_gas_phase(tmp_path, gas_phase_key(BUTANE, "gfnff (2)")) is None
    assert read_gas_phase(tmp_path, gas_phase_key("CCC", "gfnff (1)")) is None


def test_a_damaged_file_counts_as_none(tmp_path):
    write_gas_phase(tmp_path, reference())
    path = tmp_path / GAS_PHASE_FILE
    for content in ("{", "[]", '{"key": 1}', path.read_text().replace("-0.3", "null,-0.3")):
        path.write_text(content)
        assert read_gas_phase(tmp_path) is None


def test_runs_share_references_of_engines_of_ours_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gas = reference()
    for engine in ("ase:my.module:factory", "gfnff"):
        write_shared(engine, gas)
    assert len(list(tmp_path.rglob("*.json"))) == 1
    assert read_shared("gfnff", gas.key) == gas
    assert read_shared("ase:my.module:factory", gas.key) is None
    monkeypatch.setenv(SHARE_VARIABLE, "0")
    assert read_shared("gfnff", gas.key) is None


def test_lattice_energies_count_from_the_molecule():
    gas = GasPhase("k", "C", "e (1)", -10.0)
    rows = [
        {"rank": 1, "energy_eV": -22.0, "z": 2},
        {"rank": None, "energy_eV": -11.0, "z": 1},
        {"rank": None},
    ]
    found = with_lattice_energies(rows, gas)
    assert [row["lattice_energy_kJ_mol"] for row in found] == [pytest.approx(-96.4853), None, None]
    assert lattice_energy(-11.0, GasPhase("k", "C", "e (1)", reason="no.")) is None


def test_the_table_names_its_reference(tmp_path):
    gas = reference(n_relaxed=2, n_conformers=2)
    schema = with_reference(stage_schema("rank"), gas)
    table = pa.Table.from_batches([rows_to_batch([{"rank": 1}], schema)])
    pq.write_table(table, tmp_path / "t.parquet")
    found = pq.read_schema(tmp_path / "t.parquet")
    field = found.field("lattice_energy_kJ_mol").metadata
    assert field[b"unit"] == b"kJ/mol"
    assert b"lowest of 2 gas-phase conformers of CCCC relaxed by gfnff (1)" in field[b"reference"]
    assert json.loads(found.metadata[METADATA_KEY])["energy_eV"] == gas.energy_eV


def test_the_method_is_part_of_the_key(monkeypatch):
    before = gas_phase_key(BUTANE, "gfnff (1)")
    monkeypatch.setattr(module, "MAX_CONFORMERS", 5)
    assert gas_phase_key(BUTANE, "gfnff (1)") != before
