"""A worker pool without processes: candidates end as the test says, energies follow a formula.

A conftest imports the fixtures `workers` and `open_folder` from here.
"""

from pathlib import Path

import pytest

from packflow_core.spec import make_spec
from packflow_core.stages import chunk, finish
from packflow_core.stages.run_store import OpenRun, plan_for
from packflow_core.store.rows import next_row
from packflow_core.workers import Outcome

SPEC = {"smiles": "C=O", "name": "x", "z": [1, 2], "n": 40, "seed": 3}

#: eV per molecule between two neighbours by index: 0.965 kJ/mol.
STEP_EV = 0.01


class FakePool:
    """Attempts candidates at once.

    Args:
        faults: (stage, index) to what its attempts come to, one after the other, the last for
            ever: an error of the pool, columns of a row, or None for ok.
        die_after: attempts until the process is "killed".

    Attributes:
        done: (stage, index) of every attempt, in order.
        engines: engine by relaxation stage.
    """

    def __init__(self, faults=None, die_after=None):
        self.faults = {
            key: list(fault) if isinstance(fault, list) else [fault]
            for key, fault in (faults or {}).items()
        }
        self.die_after = die_after
        self.done = []
        self.engines = {}

    def map_groups(self, function, groups, timeout_s, renew=None):
        for members, arguments in groups:
            if function.__name__ == "run_hydrogenate":
                for index, row in members:
                    yield self._attempt("hydrogenate", index, row)
                continue
            _, engine, _, _, states = arguments
            stage = Path(states).parent.name.rsplit("-", 1)[0]
            self.engines[stage] = engine
            for index, (row, _) in members:
                yield self._attempt(stage, index, row)

    def map(self, function, items, timeout_s):
        stage = {"run_analyse": "rank"}.get(function.__name__)
        for index, arguments in items:
            if stage is None:  # the ranking of all candidates at once
                yield Outcome(index, function(*arguments), None, "", 0.1)
            else:
                yield self._attempt(stage, index, arguments[0])

    def _attempt(self, stage, index, row):
        if self.die_after is not None and len(self.done) == self.die_after:
            raise KeyboardInterrupt
        self.done.append((stage, index))
        faults = self.faults.get((stage, index), [None])
        fault = faults.pop(0) if len(faults) > 1 else faults[0]
        if isinstance(fault, str):
            return Outcome(index, None, fault, "in words", 0.1)
        columns = fault or {"status": "ok", "energy_eV": energy(stage, index, row)}
        return Outcome(index, next_row(row, **columns), None, "", 0.1)


def energy(stage, index, row):
    """Lower with each index, and in each refinement; the analysis keeps what was relaxed."""
    if stage == "rank":
        return row["energy_eV"]
    refinement = int(stage.removeprefix("relax_")) if stage.startswith("relax_2") else 0
    return row["z"] * (-1.0 - STEP_EV * index - refinement)


@pytest.fixture
def workers(monkeypatch):
    """Installs a `FakePool` made of its arguments."""

    def use(**kwargs):
        fake = FakePool(**kwargs)
        monkeypatch.setattr(chunk, "pool", lambda *args: fake)
        monkeypatch.setattr(finish, "pool", lambda *args: fake)
        return fake

    return use


@pytest.fixture
def open_folder(tmp_path, stub_generator):
    """Opens a run of 40 candidates, 32 of which leave the generator."""

    def open_it(folder="run", **values):
        spec = make_spec({**SPEC, **values})
        path = tmp_path / folder
        return OpenRun(path, plan_for(spec, path), command=["csp"])

    return open_it
