"""Run folders for the race, written through the store: no stage computes anything.

A conftest imports the fixtures `inline`, `no_figures` and `write` from here.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest

from packflow_core.crystal.crystal import Crystal
from packflow_core.race import report
from packflow_core.spec import make_spec
from packflow_core.stages import pools, present
from packflow_core.stages.plan import make_plan
from packflow_core.stages.run_store import OpenRun
from packflow_core.store.rows import crystal_columns, next_row
from packflow_core.workers import Outcome

EV_TO_KJ_MOL = 96.48533212
#: eV per molecule of the zero of the energies below.
ZERO_EV = -10.0
SPEC = {"smiles": "C=O", "name": "x", "z": [2], "engine": "springs"}


@dataclass
class Candidate:
    """How one candidate fares.

    Attributes:
        end: (stage, status, reason) that it ends in; None for a ranked one.
        energy: kJ/mol per molecule above ZERO_EV after relaxation.
        start: the same before it.
        density: cell edges are scaled to have it after relaxation, g/cm3.
        match: whether it matches the reference.
        seconds: of each stage.
        crystal: after relaxation; two molecules in a box when None.
        more: (stage, column) to value.
    """

    end: tuple | None = None
    energy: float = 5.0
    start: float = 50.0
    density: float = 1.2
    match: bool | None = None
    seconds: dict = field(default_factory=dict)
    crystal: Crystal | None = None
    more: dict = field(default_factory=dict)


def box(index, density):
    """Two molecules of formaldehyde, heavy atoms, in a box of about the density."""
    rng = np.random.default_rng(index)
    edge = (2 * 30.03 / 0.6022 / density) ** (1 / 3)
    first = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.21]])
    second = first[:, [1, 2, 0]] + edge / 2 + rng.uniform(-0.1, 0.1, 3)
    return Crystal(np.array([6, 8, 6, 8]), np.concatenate([first, second]), np.eye(3) * edge, 2)


def write_run(folder, candidates, *, unfinished=(), generator="random", **values):
    """A run folder whose candidates fared as given.

    Args:
        folder: where.
        candidates: `Candidate`s by index.
        unfinished: (index, stage) from which on a candidate has no row.
        generator: name, used as the method.
        values: more fields of the spec.
    """
    spec = make_spec({**SPEC, "generator": generator, "n": len(candidates), **values})
    plan = make_plan(spec, {"name": generator, "sha256": "0" * 64})
    missing = dict(unfinished)
    with OpenRun(folder, plan, command=["csp"]) as run:
        names = run.plan.stage_names
        tables = {name: [] for name in names}
        for index, one in enumerate(candidates):
            for name, row in rows_of(index, one, run, names):
                if name == missing.get(index):
                    break
                tables[name].append(row)
        for name, rows in tables.items():
            run.stage(name).write_part(rows)
        run.end_session("interrupted" if missing else "finished")
    return folder


def rows_of(index, one, run, names):
    """(stage, row) of a candidate until its end."""
    spec = run.plan.spec
    crystal = one.crystal or box(index, one.density)
    z = crystal.z
    row = {
        "candidate_id": f"x-{index:06d}", "index": index, "campaign": "single",
        "target": spec.name, "method": spec.method, "seed": spec.seed, "z": z,
        **crystal_columns(crystal, hydrogens_missing=4 if one.crystal is None else 0),
    }  # fmt: skip
    energies = {
        "energy_eV": z * (ZERO_EV + one.energy / EV_TO_KJ_MOL),
        "energy_start_eV": z * (ZERO_EV + one.start / EV_TO_KJ_MOL),
    }
    for name in names:
        status, reason = "ok", ""
        if one.end is not None and one.end[0] == name:
            _, status, reason = one.end
        columns = {
            "stage_key": run.plan.key(name), "attempt": 1, "device": "cpu", "host": "here",
            "wall_s": one.seconds.get(name, 1.0), "density_g_cm3": one.density,
        }  # fmt: skip
        if name.startswith("relax"):
            columns |= {"density_start_g_cm3": 0.8 * one.density, **energies}
        if name == "rank":
            columns |= {
                "energy_eV": energies["energy_eV"], "matches_reference": one.match,
                "match_rmsd_A": 0.1 if one.match else None, "space_group": "P1",
            }  # fmt: skip
        columns |= {key: value for (stage, key), value in one.more.items() if stage == name}
        out = next_row(row, status=status, reason=reason)
        out.update(columns)
        yield name, out
        if status != "ok":
            return


class InlinePool:
    """Stands for the workers: calls the function here; what it raises is the outcome's error."""

    def map(self, function, items, timeout_s):
        for key, arguments in items:
            try:
                yield Outcome(key, function(*arguments), None, "", 0.1)
            except Exception as error:
                yield Outcome(key, None, "exception", f"{type(error).__name__}: {error}", 0.1)


@pytest.fixture
def inline(monkeypatch):
    """Clustering and the known form in this process."""
    monkeypatch.setattr(pools, "pool", lambda *args: InlinePool())


@pytest.fixture
def no_figures(monkeypatch):
    """Empty files in the place of figures and reports: they take seconds and have their tests."""

    def touch(race, folder):
        (folder / "race.png").touch()
        return {"race": folder / "race.png"}

    monkeypatch.setattr(report, "write_figures", touch)
    for name in ("write_landscape", "write_run_report"):
        monkeypatch.setattr(
            present, name, lambda run, rows, *paths: [path.touch() for path in paths]
        )


@pytest.fixture
def write(tmp_path):
    """Writes a run of candidates into a folder of that name."""

    def make(folder, candidates, **values):
        return write_run(tmp_path / folder, candidates, **values)

    return make
