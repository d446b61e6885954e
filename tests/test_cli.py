"""The command line as a contract: options, exit codes, one sentence for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from packflow_core.errors import UserInputError
from packflow_core.spec import make_spec
from packflow_core.stages import chunk
from packflow_core.stages.finish import write_results
from packflow_core.stages.pipeline import run_stages
from packflow_core.stages.run_store import OpenRun, RunStore, plan_for
from packflow_core.store.lock import RunLock
from packflow_core.store.rows import next_row
from packflow_core.workers import Outcome

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"


@pytest.fixture
def csp(call_csp):
    """Call the command in this process: exit code, standard output, standard error."""

    return call_csp


@pytest.fixture
def nothing_starts(monkeypatch):
    """Fails the test when a command gets as far as Prefect."""
    from flows import local_api

    def started():
        raise AssertionError("Prefect was started before the input was checked")

    monkeypatch.setattr(local_api, "prepare", started)


class InlinePool:
    """Stands for the workers: every candidate is ok at once, but for number 2, which times out."""

    def map_groups(self, function, groups, timeout_s, renew=None):
        for members, arguments in groups:
            items = [
                (key, (payload[0] if isinstance(payload, tuple) else payload, *arguments))
                for key, payload in members
            ]
            yield from self.map(function, items, timeout_s)

    def map(self, function, items, timeout_s):
        for key, arguments in items:
            if function.__name__ == "run_rank":
                yield Outcome(key, function(*arguments), None, "", 0.1)
            elif function.__name__ == "search_molecule":
                yield Outcome(key, "not in this test", None, "", 0.1)
            elif function.__name__ == "run_analyse":
                columns = {"energy_eV": -1.0 - 0.01 * key, "energy_per_molecule_eV": -1.0}
                yield Outcome(key, next_row(arguments[0], status="ok", **columns), None, "", 0.1)
            elif key == 2:
                yield Outcome(key, None, "timeout", "", 0.1)
            elif function.__name__ == "run_relax":
                row = next_row(arguments[0], status="ok", energy_eV=-1.0 - 0.01 * key)
                yield Outcome(key, row, None, "", 0.1)
            else:
                yield Outcome(key, next_row(arguments[0], status="ok"), None, "", 0.1)


@pytest.fixture
def finished(tmp_path, stub_generator, monkeypatch):
    """Folder of a small run that is done."""
    monkeypatch.setattr(chunk, "pool", lambda *args: InlinePool())
    monkeypatch.setattr("packflow_core.stages.finish.pool", lambda *args: InlinePool())
    spec = make_spec({"smiles": "C=O", "name": "x", "z": [2], "n": 8})
    with OpenRun(tmp_path / "run", plan_for(spec, tmp_path / "run"), command=["csp"]) as run:
        run_stages(run, 1)
        write_results(run.folder, 1)
        run.end_session("finished")
    return run.folder


# -- mistakes ---------------------------------------------------------------------------------
@pytest.fixture
def corrupt(tmp_path):
    path = tmp_path / "corrupt.pt"
    path.write_bytes(b"PK\x03\x04 this is no checkpoint" * 40)
    return path


MISTAKES = {
    "invalid SMILES": (["run", "C1CC"], "'C1CC' is not a valid SMILES"),
    "two components": (["run", "O.[Na]"], "has 2 components"),
    "half of the shares": (["run", "CC", "--z", "2:1,4"], "--z 2:1,4:3"),
    "density in kg/m3": (["run", "CC", "--density", "900:1100"], "check the unit"),
    "volume upside down": (["run", "CC", "--volume", "80:60"], "lower end of a window comes first"),
    "racemate of nothing": (["run", "CC", "--racemic"], "no two hands"),
    "element": (["run", "[Fe]"], "contains Fe; the model knows H, B, C"),
    "ion": (["run", "[NH4+]"], "total charge of +1"),
    "Z of 0": (["run", "CC", "--z", "0"], "z = 0 is not allowed"),
    "Z not a number": (["run", "CC", "--z", "two"], "--z two is not a list of whole numbers"),
    "no candidates": (["run", "CC", "--n", "0"], "n = 0 is not allowed"),
    "n not a number": (["run", "CC", "--n", "many"], "Invalid value for '--n'"),
    "unknown engine": (["run", "CC", "--engine", "nope"], "nope"),
    "ranks without use": (["run", "CC", "--ranks", "2"], "needs no MPI"),
    "no reference": (["run", "CC", "--reference", "/no.cif"], "/no.cif cannot be read"),
    "reference not a CIF": (["run", "CC", "--reference", __file__], "test_cli.py"),
    "reference of another molecule": (
        ["run", "CC", "--reference", DATA / "urea.cif"],
        "the target CC has C2",
    ),
    "folder in a device": (["run", "CC", "--out", "/dev/null/x"], "/dev/null/x cannot be written"),
    "folder in /proc": (["run", "CC", "--out", "/proc/x/y"], "/proc/x/y cannot be written"),
    "no target file": (["run", "no.yaml"], "The target file no.yaml cannot be read"),
    "unknown setting": (["run", "CC", "--set", "relax.fmx=1"], "'relax.fmx' is not a field"),
    "setting without value": (["run", "CC", "--set", "relax"], "FIELD=VALUE"),
    "setting inside a value": (["run", "CC", "--set", "smiles.x=1"], "smiles is not a group"),
    "unknown option": (["run", "CC", "--colour", "red"], "No such option"),
    "unknown command": (["predict"], "No such command"),
    "no target": (["run"], "Missing argument"),
    "protocol": (["run", "CC", "--protocol", "h_only"], "'converged', 'paper'"),
    "device of no engine": (["run", "CC", "--device", "cuda"], "cannot use a GPU"),
    "no device": (["run", "CC", "--device", "toaster"], "Unknown device 'toaster'"),
    "unknown refinement": (["run", "CC", "--refine", "nope:10"], "nope"),
    "refinement without a window": (
        ["run", "CC", "--refine", "gfnff:-1"],
        "refine.relax_2.window_kJ_mol = -1",
    ),
    "field of a refinement": (
        ["run", "CC", "--refine", "gfnff", "--set", "refine.relax_2.window=1"],
        "'refine.relax_2.window' is not a field",
    ),
    "factory of a wrong form": (["run", "CC", "--engine", "ase:nothing"], "ase:"),
    "resume nothing": (["resume", "/no/run"], "/no/run is not a run folder"),
    "status of nothing": (["status", "/tmp"], "/tmp is not a run folder"),
    "rank nothing": (["rank", "/no/run", "--rerank"], "/no/run is not a run folder"),
    "export nothing": (["export", "/no/run"], "/no/run is not a run folder"),
}


@pytest.mark.usefixtures("stub_generator", "nothing_starts")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(csp, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    arguments, says = MISTAKES[mistake]
    code, out, err = csp(*arguments)
    assert code == 2
    assert says in err
    assert out == ""
    assert err.startswith("csp: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []  # nothing was written

    code, out, err_again = csp(*arguments, "--json")
    assert code == 2
    if says != "No such option":  # which option comes first is the parser's business
        assert err_again == err
    document = json.loads(out)
    assert (document["status"], document["exit_code"]) == ("error", 2)
    assert f"csp: {document['error']}\n" == err_again


@pytest.mark.usefixtures("nothing_starts")
def test_a_corrupt_checkpoint_is_one_sentence(csp, corrupt, tmp_path):
    code, out, err = csp("run", "CC", "--generator", corrupt, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert str(corrupt) in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    code, _, err = csp("models", "verify", corrupt)
    assert code == 2
    assert str(corrupt) in err


def test_a_server_that_does_not_answer_is_one_sentence(monkeypatch):
    from flows import local_api

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(UserInputError, match=r"127.0.0.1:9/api, but no Prefect server answers"):
        local_api.prepare()


@pytest.mark.usefixtures("nothing_starts")
def test_a_folder_with_another_run_is_refused_before_anything_starts(csp, finished):
    code, _, err = csp("run", "C=O", "--name", "x", "--z", "2", "--n", "8", "--seed", "7",
                       "--out", finished)  # fmt: skip
    assert code == 2
    assert f"The folder {finished} holds another run: seed is 0 there and 7 here" in err


def test_an_unexpected_error_is_one_sentence_and_a_file_with_the_traceback(csp, monkeypatch):
    from flows import commands

    def broken(*args):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(commands, "status", broken)
    code, out, err = csp("status", "somewhere")
    assert (code, out) == (1, "")
    assert err.startswith("csp: The command broke unexpectedly (ZeroDivisionError")
    log = Path(err.rsplit(" ", 1)[1].strip().rstrip("."))
    assert "Traceback" in log.read_text()
    log.unlink()


# -- engines that run foreign code ------------------------------------------------------------
LJ = "ase:ase.calculators.lj:LennardJones"


@pytest.fixture
def planned(monkeypatch):
    """Specs that got through every check, instead of being run."""
    from flows import run_commands
    from packflow_core.engines import trust

    monkeypatch.delenv(trust.VARIABLE, raising=False)
    monkeypatch.setattr(trust, "_allowed_here", set())
    plans = []

    def flow(terminal, spec, folder, how):
        plans.append((plan_for(spec, folder).spec, how))
        return 0

    monkeypatch.setattr(run_commands, "_flow", flow)
    return plans


@pytest.mark.usefixtures("stub_generator")
@pytest.mark.parametrize(
    "options",
    [
        ["--engine", LJ],
        ["--refine", "gfnff:20", "--refine", f"{LJ}:10"],
        ["--set", f"engine={LJ}"],
        ["--set", f"refine=[{{engine: '{LJ}'}}]"],
        ["--refine", "gfnff", "--set", f"refine.relax_2.engine={LJ}"],
    ],
)
def test_what_the_user_types_is_trusted(csp, planned, tmp_path, options):
    code, _, err = csp("run", "CC", *options, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert LJ in planned[0][0].engines


@pytest.mark.usefixtures("stub_generator", "planned")
@pytest.mark.parametrize("field", [f"engine: {LJ}", f"refine: ['{LJ}:10']"])
def test_what_a_file_says_is_not_trusted(csp, tmp_path, monkeypatch, field):
    path = tmp_path / "target.yaml"
    path.write_text(f"smiles: CC\n{field}\n")
    code, _, err = csp("run", path, "--out", tmp_path / "run")
    assert code == 2
    assert "PACKFLOW_ALLOW_ENGINES=ase.calculators.lj:LennardJones" in err
    monkeypatch.setenv("PACKFLOW_ALLOW_ENGINES", "ase.calculators.lj:*")
    assert csp("run", path, "--out", tmp_path / "run")[0] == 0


@pytest.mark.usefixtures("stub_generator")
def test_refinements_and_devices_reach_the_run(csp, planned, tmp_path):
    code, _, err = csp(
        "run", "CC", "--refine", "springs", "--refine", "gfnff:3", "--set",
        "refine.relax_2.window_kJ_mol=12", "--set", "refine.relax_3.relax.fmax=0.02",
        "--device", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert (code, err) == (0, "")
    ((spec, how),) = planned
    assert [(s.engine, s.window_kJ_mol) for s in spec.refine] == [("springs", 12), ("gfnff", 3)]
    assert [s.relax.fmax for s in spec.refine] == [0.05, 0.02]
    assert (how.device, how.workers) == ("cpu", None)


# -- looking at a run -------------------------------------------------------------------------
def test_status_counts_what_the_folder_holds(csp, finished):
    code, out, _ = csp("status", finished, "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["status"], document["n"]) == ("finished", 8)
    stages = {stage["stage"]: stage for stage in document["stages"]}
    assert stages["generate"]["reasons"] == {"rejected: bad_cell": 1}
    assert (stages["hydrogenate"]["eligible"], stages["hydrogenate"]["failed"]) == (7, 1)
    assert (stages["rank"]["eligible"], stages["rank"]["pending"]) == (6, 0)
    code, out, _ = csp("status", finished)
    assert "hydrogenate" in out
    assert "finished" in out


def test_failures_are_grouped_by_stage_and_reason(csp, finished):
    code, out, _ = csp("failures", finished, "--json")
    groups = json.loads(out)["groups"]
    found = {(g["stage"], g["status"], g["reason"]): g["candidates"] for g in groups}
    assert code == 0
    assert found == {
        ("generate", "rejected", "bad_cell"): ["x-z2-000004"],
        ("hydrogenate", "failed", "timeout"): ["x-z2-000002"],
    }
    _, out, _ = csp("failures", finished, "--reason", "timeout", "--json")
    assert len(json.loads(out)["groups"]) == 1
    _, out, _ = csp("failures", finished, "--stage", "relax")
    assert "ended ok" in out
    _, out, _ = csp("failures", finished, "--all")
    assert "x-z2-000002" in out
    code, _, err = csp("failures", finished, "--stage", "press")
    assert code == 2
    assert "generate, hydrogenate, relax_h, relax, rank" in err


def test_failures_are_queued_again(csp, finished):
    code, out, _ = csp("failures", finished, "--requeue", "timeout")
    assert code == 0
    assert "1 candidate with the reason timeout (1 in hydrogenate) waits" in out
    assert f"csp resume {finished}" in out
    code, out, _ = csp("failures", finished, "--requeue", "timeout", "--json")
    document = json.loads(out)
    assert (document["count"], document["stages"]) == (1, {"hydrogenate": [2]})
    stages = {s["stage"]: s for s in json.loads(csp("status", finished, "--json")[1])["stages"]}
    assert (stages["hydrogenate"]["failed"], stages["hydrogenate"]["pending"]) == (1, 1)
    assert f"Continue with: csp resume {finished}" in csp("status", finished)[1]
    assert RunStore(finished).pending("hydrogenate") == [(2, 3)]

    code, out, err = csp("failures", finished, "--requeue", "nan")
    assert (code, out) == (2, "")
    assert "with the reason 'nan'; reasons there are timeout." in err
    code, _, err = csp("failures", finished, "--requeue", "timeout", "--all")
    assert code == 2
    assert "goes with --stage alone" in err
    with RunLock(finished):
        code, _, err = csp("failures", finished, "--requeue", "timeout")
    assert code == 2
    assert "in use by another csp process" in err


def test_the_ranking_can_be_shown_and_exported(csp, finished, tmp_path):
    code, out, _ = csp("rank", finished)
    assert code == 0
    assert "x-z2-000007" in out
    code, out, _ = csp("rank", finished, "--json")
    document = json.loads(out)
    assert document["best"][0]["candidate_id"] == "x-z2-000007"
    code, _, err = csp("rank", finished, "--reference", "x.cif")
    assert code == 2
    assert "add --rerank" in err
    code, out, _ = csp("export", finished, "--top", "2", "--to", tmp_path / "best", "--json")
    assert code == 0
    names = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert names[0].startswith("001_x-z2-000007")
    assert len([name for name in names if name.endswith(".cif")]) == 2
    assert "ranked.csv" in names


def test_the_result_files_can_be_written_again(csp, finished):
    files = ["ranked.parquet", "ranked.csv", "report.html", "report.md", "landscape.png"]
    before = (finished / "ranked.csv").read_bytes()
    for name in files:
        (finished / name).unlink()
    code, out, _ = csp("report", finished, "--json")
    assert code == 0
    assert all((finished / name).stat().st_size for name in files)
    assert (finished / "ranked.csv").read_bytes() == before
    assert set(json.loads(out)["files"]) == {
        "ranked", "table", "report", "markdown", "landscape", "structures",
    }  # fmt: skip
    assert len(list((finished / "structures").glob("*.cif"))) == json.loads(out)["n_distinct"]


def test_the_report_says_where_the_numbers_come_from(finished):
    text = (finished / "report.html").read_text()
    run = RunStore(finished)
    for fact in ("C=O", run.plan.key("relax"), run.plan.generator["sha256"], "bad_cell", "timeout"):
        assert fact in text


def test_an_export_needs_a_ranking(csp, finished):
    (finished / "ranked.parquet").unlink()
    code, _, err = csp("export", finished)
    assert code == 2
    assert f"csp resume {finished}" in err


# -- help -------------------------------------------------------------------------------------
COMMANDS = [
    "run", "resume", "compare", "conformers", "status", "failures", "rank", "report", "export",
    "pxrd", "doctor", "models",
]  # fmt: skip


def test_help_names_every_command_and_exit_code(csp, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = csp("--help")
    assert code == 0
    for word in [*COMMANDS, "interrupted", "PREFECT_API_URL"]:
        assert word in out
    code, out, _ = csp("run", "--help")
    for option in ("--name", "--z", "--n", "--generator", "--engine", "--reference", "--seed",
                   "--workers", "--out", "--json", "--quiet", "--protocol", "--steps", "--refine",
                   "--device", "--density", "--volume", "--racemic"):  # fmt: skip
        assert option in out
    assert "csp run target.yaml --reference known.cif" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(csp, command):
    code, out, _ = csp(command, "--help")
    assert code == 0
    assert len(out) > 200


def test_models_are_listed_fetched_and_converted(csp, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    code, out, _ = csp("models", "list", "--json")
    assert code == 0
    assert len(json.loads(out)["models"]) == 6
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = csp("models", "download", "packflow-pa", "--quiet")
    assert (code, out) == (2, "")
    assert "HF_HUB_OFFLINE forbids" in err
    code, _, err = csp("models", "verify", "packflow-pa", "--accept")
    assert code == 2
    assert "csp models download packflow-pa" in err
    target = tmp_path / "m.safetensors"
    source = DATA / "golden" / "small_best_model.pt"
    code, out, _ = csp("models", "convert", source, target, "--json")
    assert code == 0
    assert json.loads(out)["path"] == str(target)
    assert target.is_file()


def test_conditions_of_the_command_line_reach_the_run(csp, monkeypatch):
    from flows import run_commands

    seen = []
    monkeypatch.setattr(run_commands, "run", lambda terminal, spec, out, how: seen.append(spec))
    csp("run", "C[C@H](N)C(=O)O", "--racemic", "--z", "2:1,4:3", "--density", "1.2:",
        "--volume", ":130")  # fmt: skip
    (spec,) = seen
    assert (spec.z, spec.z_shares, spec.racemic) == ((2, 4), (1, 3), True)
    assert (spec.density, spec.volume) == ((1.2, None), (None, 130.0))


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['csp', '--help']\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'prefect', 'rdkit', 'pandas', 'pyarrow', 'ase', 'numpy', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    assert "Molecular crystal structure prediction" in done.stdout


def test_the_version_is_printed(csp):
    from packflow_core import __version__

    assert csp("--version") == (0, f"csp {__version__}\n", "")


def test_doctor_finds_engine_and_packages(csp):
    code, out, _ = csp("doctor", "--json")
    document = json.loads(out)
    verdicts = {check["name"]: check for check in document["checks"]}
    assert verdicts["packages"]["verdict"] != "fail"
    assert verdicts["engine gfnff"]["verdict"] == "ok", verdicts["engine gfnff"]
    assert code == (0 if document["ok"] else 1)
