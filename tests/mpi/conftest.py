"""A run whose candidates ranks make."""

import pytest

from packflow_core.mpi import launch
from packflow_core.spec import make_spec
from packflow_core.stages.run_store import OpenRun, plan_for
from packflow_core.store.schema import Status

SPEC = {"smiles": "C=O", "name": "x", "z": [1, 2], "n": 12, "seed": 3, "generator": "random"}


@pytest.fixture(autouse=True)
def _launcher_of_python(monkeypatch):
    """The launcher beside Python, whatever the person at the terminal prefers."""
    monkeypatch.delenv("PACKFLOW_MPIEXEC", raising=False)


@pytest.fixture
def open_run(tmp_path):
    """Opens a run of 12 candidates, or continues it."""

    def open_it(**values):
        spec, folder = make_spec({**SPEC, **values}), tmp_path / "run"
        return OpenRun(folder, plan_for(spec, folder), command=["csp"])

    return open_it


@pytest.fixture
def run(open_run):
    """An open run."""
    with open_run() as opened:
        yield opened


@pytest.fixture
def starts(monkeypatch):
    """Number of ranks of each start of the launcher."""
    seen = []

    class Counted(launch.Start):
        def __enter__(self):
            seen.append(self._job.ranks)
            return super().__enter__()

    monkeypatch.setattr(launch, "Start", Counted)
    return seen


@pytest.fixture
def attempt():
    """Has a stand-in make what is pending with two ranks, in blocks of two candidates."""

    def run_them(run, function="make", on_row=lambda status: None, ranks=2, **more):
        work = run.pending("generate")
        name = f"rank_functions:{function}"
        return launch.run_ranks(
            run, "generate", work, ranks, on_row, block=2, function=name, **more
        )

    return run_them


@pytest.fixture
def results():
    """(status, reason, attempt) of each candidate that has a row, by index."""

    def read(run):
        rows = run.stage("generate").rows()
        return {r["index"]: (Status(r["status"]), r["reason"], r["attempt"]) for r in rows}

    return read
