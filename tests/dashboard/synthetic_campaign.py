"""Synthetic run folders of any size, written through Arrow: no stage computes anything.

Shared by the tests and by benchmarks/dashboard.py. Every number follows from the seed; energies,
densities, space groups and losses are drawn so that the pictures look like those of a real run.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from packflow_core.crystal.cif import read_cif, write_cif
from packflow_core.spec import make_spec
from packflow_core.stages.plan import make_plan
from packflow_core.stages.run_store import OpenRun, RunStore

UREA_CIF = Path(__file__).parents[1] / "data" / "urea.cif"
EV_TO_KJ_MOL = 96.48533212
#: eV per molecule of the lowest candidate.
ZERO_EV = -40.0
GROUPS = (("P2_1/c", 14), ("P-1", 2), ("P2_12_12_1", 19), ("P2_1", 4), ("C2/c", 15), ("Pbca", 61),
          ("Pna2_1", 33), ("P1", 1))  # fmt: skip
SHARES = (0.3, 0.2, 0.14, 0.1, 0.08, 0.08, 0.06, 0.04)
#: Shares of the attempted candidates that end so: stage to ((status, reason, share, detail), ...).
LOSSES = {
    "generate": (("rejected", "bad_cell", 0.02, "cell height 2.1 Å"),),
    "hydrogenate": (("rejected", "clash", 0.03, "contact of 0.61 van der Waals sums"),),
    "relax_h": (("unconverged", "max_steps", 0.2, "fmax 0.09 eV/Å"),),
    "relax": (
        ("unconverged", "max_steps", 0.02, "fmax 0.11 eV/Å, stress 0.2 GPa"),
        ("failed", "engine_error", 0.008, "the engine said no"),
        ("failed", "timeout", 0.004, "no answer after 7200 s"),
        ("failed", "topology", 0.003, "a fresh calculator differs by 3.1 kJ/mol"),
    ),
    "rank": (("rejected", "connectivity", 0.01, "a bond is broken"),),
}
SECONDS = {"generate": 0.4, "hydrogenate": 0.8, "relax_h": 4.0, "relax": 20.0, "rank": 0.02}
_ACCEPTED = {"relax_h": ("ok", "unconverged")}
_STEPS = 12


def write_campaign(
    folder, n, *, seed=0, name="urea", campaign="synthetic", generator="random", reference=True,
    part=500, stop=None, shift=0.0,
):  # fmt: skip
    """Write a run folder of `n` candidates of urea, Z = 2.

    Args:
        folder: where; made.
        n: candidates.
        seed: of everything drawn.
        name, campaign, generator: of the spec.
        reference: give the run a reference crystal.
        part: candidates per Parquet file.
        stop: (stage, share) where an unfinished run is: that share of the stage is done.
        shift: kJ/mol that this run's energies lie higher.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    known = read_cif(UREA_CIF)
    values = {
        "smiles": "NC(N)=O",
        "name": name,
        "campaign": campaign,
        "z": [2],
        "n": n,
        "seed": seed,
    }
    if reference:
        path = folder.parent / f"{folder.name}-known.cif"
        write_cif(known, path)
        values["reference"] = str(path)
    spec = make_spec({**values, "generator": generator, "engine": "gfnff"})
    plan = make_plan(spec, {"name": generator, "sha256": "0" * 64})
    rng = np.random.default_rng(seed)
    drawn = _draw(rng, n, shift)
    alive = np.ones(n, dtype=bool)
    with OpenRun(folder, plan, command=["csp", "run"]) as run:
        for stage in run.plan.stage_names:
            taken = np.flatnonzero(alive)
            done = taken
            if stop is not None and stop[0] == stage:
                done = taken[: int(stop[1] * len(taken))]
            status, reason, detail = _ends(rng, stage, n)
            table = _table(run, stage, done, drawn, known, status, reason, detail)
            for k in range(0, len(done), part):
                piece = table.slice(k, part)
                index = done[k : k + part]
                path = run.stage(stage).folder
                path = path / f"part-{index[0]:08d}-{index[-1]:08d}-{k:08x}.parquet"
                pq.write_table(piece, path, compression="zstd")
            if stop is not None and stop[0] == stage:
                break
            alive &= np.isin(status, _ACCEPTED.get(stage, ("ok",)))
        if stop is None:
            _write_ranked(run, drawn)
        run.end_session("interrupted" if stop else "finished")
    return folder


def rewrite(folder, stage, index, **values):
    """Change columns of one row of a stage, where it lies."""
    for path in RunStore(Path(folder)).stage(stage).folder.glob("part-*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        hit = [row for row in rows if row["index"] == index]
        for row in hit:
            row.update(values)
        if hit:
            pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def _draw(rng, n, shift):
    """What the candidates are: arrays by index."""
    energy = rng.gamma(3.0, 11.0, n) + shift
    energy -= energy.min() - shift
    density = 1.36 - 0.0022 * energy + rng.normal(0, 0.018, n)
    group = rng.choice(len(GROUPS), n, p=SHARES)
    return {
        "energy": energy, "density": np.clip(density, 0.8, 1.6), "group": group,
        "start": energy + rng.gamma(2.0, 25.0, n), "seconds": rng.gamma(4.0, 0.25, n),
        "jitter": rng.normal(0, 0.01, (n, 16, 3)),
    }  # fmt: skip


def _ends(rng, stage, n):
    """Status, reason and detail of every candidate, had it come to this stage."""
    status = np.full(n, "ok", dtype=object)
    reason, detail = np.full(n, "", dtype=object), np.full(n, "", dtype=object)
    chance, low = rng.uniform(size=n), 0.0
    for one, why, share, words in LOSSES[stage]:
        hit = (chance >= low) & (chance < low + share)
        status[hit], reason[hit], detail[hit] = one, why, words
        low += share
    return status, reason, detail


def _table(run, stage, index, drawn, known, status, reason, detail):
    spec, m, atoms = run.plan.spec, len(index), len(known)
    scale = (known.density / drawn["density"][index]) ** (1 / 3)
    positions = known.positions[None] * scale[:, None, None] + drawn["jitter"][index]
    cells = known.cell[None] * scale[:, None, None]
    ev = 2 * (ZERO_EV + drawn["energy"][index] / EV_TO_KJ_MOL)
    start = 2 * (ZERO_EV + drawn["start"][index] / EV_TO_KJ_MOL)
    columns = {
        "candidate_id": [f"{spec.name}-z2-{i:06d}" for i in index],
        "index": index, "campaign": [spec.campaign] * m, "target": [spec.name] * m,
        "method": [spec.method] * m, "stage_key": [run.plan.key(stage)] * m,
        "status": status[index], "reason": reason[index], "detail": detail[index],
        "attempt": np.where(reason[index] == "timeout", 2, 1),  # the last one that it gets
        "wall_s": SECONDS[stage] * drawn["seconds"][index],
        "host": ["here"] * m, "device": ["cpu"] * m, "z": np.full(m, 2),
        "n_atoms": np.full(m, atoms), "n_heavy": np.full(m, known.n_heavy),
        "density_g_cm3": drawn["density"][index], "volume_A3": known.volume * scale**3,
        "numbers": _lists(np.broadcast_to(known.numbers, (m, atoms))),
        "positions": _lists(positions.reshape(m, -1)), "cell": _lists(cells.reshape(m, -1)),
        "seed": np.full(m, spec.seed), "engine": ["synthetic"] * m,
    }  # fmt: skip
    if stage.startswith("relax"):
        fall = np.exp(-np.arange(_STEPS) / 3.0)
        columns |= {
            "energy_eV": ev, "energy_start_eV": start, "n_steps": np.full(m, 10 * (_STEPS - 1)),
            "density_start_g_cm3": 0.9 * drawn["density"][index],
            "trace_step": _lists(np.broadcast_to(10 * np.arange(_STEPS), (m, _STEPS))),
            "trace_energy_eV": _lists(ev[:, None] + (start - ev)[:, None] * fall),
            "trace_fmax_eV_A": _lists(np.broadcast_to(0.03 + 2 * fall, (m, _STEPS))),
            "trace_stress_GPa": _lists(np.broadcast_to(0.05 + 3 * fall, (m, _STEPS))),
            "trace_volume_A3": _lists(known.volume * scale[:, None] ** 3 * (1 + 0.1 * fall)),
        }  # fmt: skip
    if stage == "rank":
        match = _matches(drawn)[index]
        columns |= {
            "energy_eV": ev, "energy_per_molecule_eV": ev / 2,
            "space_group": [GROUPS[g][0] for g in drawn["group"][index]],
            "space_group_number": [GROUPS[g][1] for g in drawn["group"][index]],
            "matches_reference": match, "match_rmsd_A": np.where(match, 0.2, np.nan),
        }  # fmt: skip
    schema = run.stage(stage).schema
    arrays = [
        pa.array(columns[f.name], type=f.type) if f.name in columns else pa.nulls(m, f.type)
        for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _matches(drawn):
    """Five candidates near the bottom are the known form."""
    match = np.zeros(len(drawn["energy"]), dtype=bool)
    match[np.argsort(drawn["energy"])[4:9]] = True
    return match


def _lists(values):
    values = np.ascontiguousarray(values)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


def _write_ranked(run, drawn):
    """ranked.parquet: the ranked candidates by energy, every third the first of a cluster."""
    table = pq.read_table([str(p) for p in sorted(run.stage("rank").folder.glob("part-*.parquet"))])
    table = table.filter(pa.compute.equal(table["status"], "ok"))
    index = table["index"].to_numpy()
    table = table.take(np.argsort(drawn["energy"][index], kind="stable"))
    m = len(table)
    more = {
        "rank": np.arange(1, m + 1), "cluster": np.arange(m) // 3 + 1,
        "cluster_size": np.full(m, 3), "representative": np.arange(m) % 3 == 0,
        "lattice_energy_rel_kJ_mol": drawn["energy"][table["index"].to_numpy()],
    }  # fmt: skip
    for name, values in more.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(place, field, pa.array(values, type=field.type))
    pq.write_table(table, run.folder / "ranked.parquet", compression="zstd")
