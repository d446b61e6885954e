"""What a run folder tells of its energies, and the commands that look at them again."""

import json

import pyarrow.parquet as pq
import pytest
from inline_pool import InlinePool

from flows import cli, trust_commands
from flows.verify import verify as verify_flow
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.errors import UserInputError
from packflow_core.stages import present
from packflow_core.stages.finish import (
    read_ranked,
    summarise,
    trust_sentences,
    write_results,
)
from packflow_core.stages.pipeline import run_stages
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import write_json
from packflow_core.trust import run_gas_phase, run_verify
from packflow_core.trust.free_energy import Price
from packflow_core.trust.gas_phase_file import GAS_PHASE_FILE
from packflow_core.trust.run_verify import TRUST_JSON, TRUST_TABLE, is_cheap, verify_folder

#: eV of the stand-in molecule alone.
GAS_EV = -0.5


@pytest.fixture
def molecule(monkeypatch):
    """The molecule alone without an engine: how often it was computed, and what comes out."""
    made = []

    def compute(smiles, engine, identity, pool, limit_s, go_on):
        made.append(identity)
        key = run_gas_phase.gas_phase_key(smiles, identity)
        values = {"reason": "it hung."} if compute.fails else {"energy_eV": GAS_EV}
        return run_gas_phase.GasPhase(key, smiles, identity, n_conformers=1, n_relaxed=1, **values)

    compute.fails = False
    compute.made = made
    monkeypatch.setattr(run_gas_phase, "compute_gas_phase", compute)
    monkeypatch.setenv("PACKFLOW_SHARE_GAS_PHASE", "0")
    return compute


@pytest.fixture(autouse=True)
def drawn(request, monkeypatch):
    """Empty files for pictures and, but for the tests that read it, the report: seconds each."""
    left_out = ["write_landscape"]
    if not request.node.get_closest_marker("usefixtures"):
        left_out.append("write_run_report")
    for name in left_out:
        monkeypatch.setattr(
            present, name, lambda run, rows, *paths: [path.touch() for path in paths]
        )


@pytest.fixture
def with_report():
    """Marks a test that reads the report."""


@pytest.fixture
def finished(open_folder, workers, molecule):
    """A finished run, its folder and its summary."""
    workers()
    with open_folder(n=10) as run:
        run_stages(run, 1)
        return run.folder, write_results(run.folder, 1)


@pytest.mark.usefixtures("with_report")
def test_lattice_energies_reach_table_csv_summary_and_report(finished, molecule):
    folder, summary = finished
    rows = [row for row in read_ranked(folder) if row["rank"]]
    assert len(rows) == summary.n_ranked > 5
    for row in rows:
        wanted = EV_TO_KJ_MOL * (row["energy_eV"] / row["z"] - GAS_EV)
        assert row["lattice_energy_kJ_mol"] == pytest.approx(wanted, abs=1e-9)
    assert summary.best[0]["lattice_energy_kJ_mol"] == rows[0]["lattice_energy_kJ_mol"]
    assert summary.gas_phase["energy_eV"] == GAS_EV
    header, first = (folder / "ranked.csv").read_text().splitlines()[:2]
    cell = dict(zip(header.split(","), first.split(","), strict=False))["lattice_energy_kJ_mol"]
    assert float(cell) == pytest.approx(rows[0]["lattice_energy_kJ_mol"], abs=1e-3)
    assert "Lattice energies count from -0.500000 eV" in (folder / "report.html").read_text()
    assert summary.completeness["overall"]["draws"] == summary.n_ranked
    assert summary.trust[-1] == summary.completeness["advice"]
    json.dumps(summary.as_dict(), allow_nan=False)


def test_the_molecule_is_computed_once(finished, molecule, workers):
    folder, before = finished
    workers()
    assert write_results(folder, 1).best == before.best
    assert len(molecule.made) == 1


def test_a_reference_of_another_engine_is_not_taken(finished, molecule, workers):
    folder, _ = finished
    workers()
    kept = json.loads((folder / GAS_PHASE_FILE).read_text())
    write_json(folder / GAS_PHASE_FILE, {**kept, "key": "0" * 64})
    write_results(folder, 1)
    assert len(molecule.made) == 2


def test_without_a_reference_the_column_is_empty_and_says_why(finished, molecule, workers):
    folder, _ = finished
    workers()
    (folder / GAS_PHASE_FILE).unlink()
    molecule.fails = True
    summary = write_results(folder, 1)
    assert {row["lattice_energy_kJ_mol"] for row in read_ranked(folder)} == {None}
    assert summary.trust[0] == "No lattice energies: it hung."
    molecule.fails = False  # tried again by the next command that may compute
    assert write_results(folder, 1, compute=False).trust[0] == summary.trust[0]
    assert write_results(folder, 1).best[0]["lattice_energy_kJ_mol"] is not None


def test_an_engine_that_is_not_the_runs_gives_no_reference(finished, monkeypatch, workers):
    folder, _ = finished
    workers()
    (folder / GAS_PHASE_FILE).unlink()
    monkeypatch.setattr(run_gas_phase, "engine_identity", lambda name: "gfnff (9.9)")
    reason = write_results(folder, 1).gas_phase["reason"]
    assert reason.endswith("but gfnff (9.9) is installed.")
    with pytest.raises(UserInputError, match=r"gfnff \(9.9\) is installed"):
        verify_folder(folder, 1)


def test_runs_of_older_versions_are_read(finished):
    """Without the column, the reference and the tables of the guards."""
    folder, _ = finished
    (folder / GAS_PHASE_FILE).unlink()
    table = pq.read_table(folder / "ranked.parquet")
    pq.write_table(table.drop_columns(["lattice_energy_kJ_mol"]), folder / "ranked.parquet")
    run, rows = RunStore(folder), read_ranked(folder)
    summary = summarise(run, rows)
    assert summary.best[0]["lattice_energy_kJ_mol"] is None
    assert "csp rank DIR --rerank" in summary.trust[0]
    assert summary.n_ranked > 5


@pytest.fixture
def guards(monkeypatch):
    """The guards without an engine: larger cells raise every second structure by 2 kJ/mol."""

    def energy(engine, crystal, cell):
        pool.seen.append(crystal)
        return -1.0 + (0.02 if cell == "larger" and len(pool.seen) > 3 else 0.0)

    pool = InlinePool(instead={"energy_written_as": energy})
    pool.seen = []
    monkeypatch.setattr(run_verify, "pool", lambda *args: pool)
    monkeypatch.setattr(trust_commands, "pool", lambda *args: pool)
    return pool


@pytest.mark.usefixtures("with_report")
def test_csp_verify_writes_its_files_and_shows_in_csp_rank(finished, guards, call_csp):
    folder, _ = finished
    code, out, _ = call_csp("verify", folder, "--top", 3, "--no-relax", "--quiet")
    assert code == 0
    table = pq.read_table(folder / TRUST_TABLE)
    assert table["rank"].to_pylist() == [1, 2, 3]
    assert table.schema.field("energy_spread_kJ_mol").metadata[b"unit"] == b"kJ/mol per molecule"
    findings = json.loads((folder / TRUST_JSON).read_text())["findings"]
    assert findings[0].startswith("Energies of the best 3 structures in equivalent cells differ")
    assert " ".join(out.split()) == " ".join(findings)
    _, shown, _ = call_csp("rank", folder, "--top", 1)
    assert findings[0] in " ".join(shown.split())
    assert findings[0][:40] in (folder / "report.html").read_text()


def test_the_flow_does_what_the_command_does(finished, guards, monkeypatch):
    folder, _ = finished
    monkeypatch.setattr("flows.verify.verify_best", verify_folder)
    found = verify_flow.fn(str(folder), top=2, relax=False, workers=1)
    assert (found["structures"], len(guards.calls)) == (2, 6)
    assert found["table"] == str(folder / TRUST_TABLE)
    with pytest.raises(UserInputError, match="There is no folder"):
        verify_flow.fn(str(folder / "nowhere"))


def test_a_ranking_that_changed_makes_findings_stale(finished, guards, monkeypatch):
    folder, _ = finished
    verify_folder(folder, 2, relax=False)
    rows = read_ranked(folder)
    rows[0]["energy_eV"] -= 1.0
    told = trust_sentences(RunStore(folder), rows)
    assert told[2] == "The ranking has changed since it was verified; 'csp verify' renews that."


def test_the_guard_runs_by_itself_only_where_it_is_cheap(finished):
    folder, _ = finished
    run, rows = RunStore(folder), read_ranked(folder)
    # Stand-in relaxations take no step, so nothing is known of the price of a call.
    assert not is_cheap(run, rows[:3])


def test_the_end_of_a_run_looks_at_the_best_five(open_folder, workers, molecule, monkeypatch):
    """Relaxations that took 1000 steps and 50 s each pay for it; those of one step do not."""
    looked_at = []
    monkeypatch.setattr(
        run_verify, "verify_run", lambda run, rows, workers, top, relax: looked_at.append(top)
    )
    for folder, steps in (("long", 1000), ("short", 1)):
        workers(
            faults={
                ("relax", i): {
                    "status": "ok", "energy_eV": -2.0 + 0.1 * i, "n_steps": steps, "wall_s": 50.0,
                }
                for i in range(10)
            }
        )  # fmt: skip
        with open_folder(folder, n=10) as run:
            run_stages(run, 1)
            write_results(run.folder, 1)
    assert looked_at == [5]


def test_nothing_ranked_is_the_users_mistake(open_folder, call_csp):
    with open_folder() as run:
        folder = run.folder
    for words in (["verify"], ["free-energy"]):
        code, _, err = call_csp(*words, folder)
        assert code == 2
        assert "holds no ranked structures yet" in err


@pytest.mark.parametrize("text", ["2", "0,1,1", "a,b,c", "1,1,10", "2,1,1,1"])
def test_supercells_that_are_none(text):
    with pytest.raises(UserInputError, match="three numbers"):
        trust_commands.parse_supercell(text)


def test_supercells():
    assert trust_commands.parse_supercell(" 2,1, 3") == (2, 1, 3)
    assert trust_commands.parse_supercell("Equal") is None


def test_a_high_price_needs_a_yes(capsys):
    price = Price(3, 2, 1000.0, 400, 2.0, 500.0, 2)
    assert price.seconds == 750.0
    trust_commands._approve(cli.Terminal(), price, yes=True)
    with pytest.raises(UserInputError, match=r"400 force calls .* add --yes"):
        trust_commands._approve(cli.Terminal(), price, yes=False)
    trust_commands._approve(cli.Terminal(), Price(3, 0, 0.0, 400, 2.0, 500.0, 2), yes=False)
