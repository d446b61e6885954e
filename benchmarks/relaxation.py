"""What the relaxation machinery costs and gains: ratios, each measured side by side in one run.

    python benchmarks/relaxation.py parity      the trajectory against ASE's, in Å
    python benchmarks/relaxation.py batch       batched against ASE one by one, same engine
    python benchmarks/relaxation.py cores       gfnff on one worker and on all
    python benchmarks/relaxation.py overhead    ledger, states, workers and Prefect against a loop
    python benchmarks/relaxation.py scale       100, 1,000 and 10,000 candidates

`all` does everything (about half an hour on two cores). Candidates are loose packings made here
(`loose.py`), so no generator is timed. Every line says what was measured; `--json` adds a line of
JSON at the end.
"""

from __future__ import annotations

import os

# Before numpy: comparisons of single-threaded loops need single-threaded libraries.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))

from loose import loose_crystal, loose_row

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.relax.driver import Driver, Job
from packflow_core.relax.protocol import RelaxParams

OBEQOD = "O=[N+]([O-])c1cc(Cl)c(Cl)cc1[N+](=O)[O-]"
UREA = "NC(N)=O"
PARAMS = RelaxParams()
#: Loose packings take gfnff hundreds of steps; a comparison needs the same number, not the end.
SHORT = RelaxParams(max_steps=60)


def crystals(smiles: str, count: int) -> list[Crystal]:
    """Loose packings, Z = 2 and 4 by turns."""
    return [loose_crystal(smiles, 4 if k % 2 else 2, k) for k in range(count)]


def drive(
    engine: Any, smiles: str, some: list[Crystal], params: RelaxParams = PARAMS
) -> tuple[dict[int, Any], float]:
    """Outcomes by position, and seconds."""
    bonds = Molecule.from_smiles(smiles).bonds_h
    began = time.perf_counter()
    driver: Driver[int] = Driver(engine, params, bonds)
    ends = dict(end for end in driver.run(Job(k, c) for k, c in enumerate(some)) if end)
    return ends, time.perf_counter() - began


def ase_steps(engine: Any, crystal: Crystal, steps: int) -> Any:
    """Atoms after so many steps of ASE's FIRE with its FrechetCellFilter."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    atoms = crystal.to_ase()
    atoms.calc = engine.as_ase(crystal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        factor = PARAMS.cell_factor(len(atoms))
        fire = FIRE(FrechetCellFilter(atoms, exp_cell_factor=factor), logfile=None)
        fire.run(fmax=0.0, steps=steps)
    return atoms


# -- parity ------------------------------------------------------------------------------------
def parity(results: dict[str, Any]) -> None:
    """Largest deviation from ASE after 200 steps of triclinic crystals, batched."""
    from packflow_core.engines.springs import SpringsEngine

    engine = SpringsEngine()
    some = crystals(UREA, 8)
    params = RelaxParams(fmax=1e-30, max_steps=200)
    driver: Driver[int] = Driver(engine, params, Molecule.from_smiles(UREA).bonds_h)
    ends = dict(end for end in driver.run(Job(k, c) for k, c in enumerate(some)) if end)
    worst = 0.0
    for k, crystal in enumerate(some):
        atoms = ase_steps(SpringsEngine(), crystal, 200)
        worst = max(worst, float(np.abs(atoms.positions - ends[k].crystal.positions).max()))
        worst = max(worst, float(np.abs(atoms.cell[:] - ends[k].crystal.cell).max()))
    say(f"parity: 8 triclinic urea crystals, 200 steps, springs: largest deviation {worst:.1e} Å")
    results["parity_A"] = worst


# -- batched against one by one ----------------------------------------------------------------
def batch(results: dict[str, Any]) -> None:
    """Batched FIRE against ASE's, the same candidates and numbers of steps."""
    from packflow_core.engines.springs import SpringsEngine

    for name, smiles, count in (("urea", UREA, 64), ("OBEQOD", OBEQOD, 48)):
        some = crystals(smiles, count)
        drive(SpringsEngine(), smiles, some[:2])  # imports and first calls
        ends, batched = drive(SpringsEngine(), smiles, some)
        steps = sum(end.n_steps for end in ends.values())
        subset = range(0, count, 8)
        began = time.perf_counter()
        for k in subset:
            ase_steps(SpringsEngine(), some[k], ends[k].n_steps)
        one_by_one = time.perf_counter() - began
        per_step = one_by_one / sum(ends[k].n_steps for k in subset)
        began = time.perf_counter()
        for k in subset:
            drive(SpringsEngine(), smiles, [some[k]])
        alone = (time.perf_counter() - began) / sum(ends[k].n_steps for k in subset)
        ratio, ratio_alone = per_step / (batched / steps), per_step / alone
        say(
            f"batch: {name}, springs, {count} candidates, {steps} steps: ASE one by one "
            f"{1e3 * per_step:.2f} ms a step, ours alone {1e3 * alone:.2f}, batched "
            f"{1e3 * batched / steps:.3f}: {ratio:.1f} times faster ({ratio_alone:.1f} alone)"
        )
        results[f"batch_{name}"] = {"ratio": ratio, "alone": ratio_alone}


# -- cores -------------------------------------------------------------------------------------
def one(crystal: Crystal, smiles: str) -> int:
    """One relaxation by gfnff, in a worker."""
    from packflow_core.engines.gfnff import GFNFFEngine

    return int(drive(GFNFFEngine(), smiles, [crystal], SHORT)[0][0].n_steps)


def cores(results: dict[str, Any]) -> None:
    """Gfnff spread over worker processes."""
    import relaxation  # the module of that name, importable in a worker

    from packflow_core.workers import WorkerPool

    some = crystals(UREA, 24)
    seconds = {}
    cpus = len(os.sched_getaffinity(0))
    for workers in dict.fromkeys((1, cpus)):
        with WorkerPool(workers) as pool:
            list(pool.map(relaxation.one, [(k, (some[k], UREA)) for k in range(workers)], 600.0))
            began = time.perf_counter()
            ends = list(pool.map(relaxation.one, [(k, (c, UREA)) for k, c in enumerate(some)], 600))
            seconds[workers] = time.perf_counter() - began
            assert all(end.error is None for end in ends)
    ratio = seconds[1] / seconds[cpus]
    say(
        f"cores: urea, gfnff, 24 candidates of 60 steps: {seconds[1]:.1f} s on 1 worker, "
        f"{seconds[cpus]:.1f} s on {cpus}: {ratio:.2f} times faster"
    )
    results["cores"] = {"workers": cpus, "ratio": ratio}


# -- overhead and scale ------------------------------------------------------------------------
SPEC: dict[str, Any] = {"smiles": UREA, "name": "bench", "z": [2, 4], "relax_h": {"max_steps": 2}}
STEPS = {"gfnff": SHORT.max_steps, "springs": PARAMS.max_steps}


@contextmanager
def stand_in() -> Iterator[None]:
    """Loose packings in place of the generator, as rows that `hydrogenate` takes."""
    from packflow_core.stages import generate as module

    kept = module.generate, module.generator_identity

    def generate(indices: list[int], **options: Any) -> list[dict[str, Any]]:
        rows = []
        for index in indices:
            z = options["z_values"][index % len(options["z_values"])]
            row = loose_row(options["smiles"], z, index)
            heavy = np.array(row["numbers"]) > 1
            row["positions"] = np.reshape(row["positions"], (-1, 3))[heavy].reshape(-1).tolist()
            row["numbers"] = np.array(row["numbers"])[heavy].tolist()
            row["n_atoms"] = int(heavy.sum())
            rows.append(row)
        return rows

    module.generate = generate  # type: ignore[assignment]
    module.generator_identity = lambda name: {"name": name, "sha256": "loose"}  # type: ignore
    try:
        yield
    finally:
        module.generate, module.generator_identity = kept


def machinery(folder: Path, engine: str, n: int, workers: int, prefect: bool) -> dict[str, float]:
    """Wall seconds of each stage of a run of n candidates up to `relax`."""
    from packflow_core.spec import make_spec
    from packflow_core.stages.chunk import run_chunk
    from packflow_core.stages.pipeline import run_stage
    from packflow_core.stages.pools import close_pools
    from packflow_core.stages.run_store import OpenRun, plan_for

    fields = {"n": n, "engine": engine, "relax": {"max_steps": STEPS[engine]}}
    spec = make_spec({**SPEC, **fields})
    seconds: dict[str, float] = {}

    def plain(run: Any) -> Callable[..., Any]:
        return lambda stage, cut: [run_chunk(run.folder, stage, w, workers) for w in cut]

    def through_prefect(run: Any) -> Callable[..., Any]:
        from prefect import flow
        from prefect.futures import wait
        from prefect.task_runners import ThreadPoolTaskRunner

        from tasks.relax import relax_chunk

        def chunks_of(stage: str, cut: Any) -> Any:
            runner: Any = ThreadPoolTaskRunner(max_workers=2)

            @flow(name="bench", persist_result=False, task_runner=runner)
            def stage_flow() -> Any:
                # The flow's own start, about a second, is paid once a run and not timed.
                began.append(time.perf_counter())
                futures = [relax_chunk.submit(str(run.folder), w, workers) for w in cut]
                wait(futures)
                return [future.result() for future in futures]

            return stage_flow()

        return chunks_of

    began: list[float] = []
    with OpenRun(folder, plan_for(spec, folder), command=["bench"]) as run:
        for stage in ("generate", "hydrogenate", "relax_h", "relax"):
            how = through_prefect(run) if prefect and stage == "relax" else plain(run)
            began.append(time.perf_counter())
            run_stage(run, stage, how)
            seconds[stage] = time.perf_counter() - began[-1]
        ledger = {stage.stage: stage for stage in run.ledger()}
        assert ledger["relax"].pending == 0
        seconds["work"] = ledger["relax"].wall_s
    close_pools()
    return seconds


def overhead(results: dict[str, Any]) -> None:
    """The stage `relax` with all its book-keeping against a bare loop over the same rows."""
    from flows import local_api
    from packflow_core.engines.registry import get_engine
    from packflow_core.stages.run_store import RunStore
    from packflow_core.store.rows import crystal_of

    local_api.prepare()
    local_api.start_server()
    with stand_in(), tempfile.TemporaryDirectory() as root:
        for engine, n in (("gfnff", 24), ("springs", 400)):
            times: dict[str, list[float]] = {"bare": [], "stage": [], "prefect": []}
            for turn in range(2):
                for kind in ("stage", "prefect"):
                    folder = Path(root) / f"{engine}-{turn}-{kind}"
                    seconds = machinery(folder, engine, n, 1, prefect=kind == "prefect")
                    times[kind].append(seconds["relax"])
                rows = RunStore(folder).stage("relax_h").rows()
                some = [crystal_of(row) for row in rows if row["status"] in ("ok", "unconverged")]
                if turn == 0:
                    drive(get_engine(engine), UREA, some[:1], SHORT)
                params = RelaxParams(max_steps=STEPS[engine])
                times["bare"].append(drive(get_engine(engine), UREA, some, params)[1])
            base = statistics.median(times["bare"])
            for kind, what in (("stage", "worker, ledger and states"), ("prefect", "and Prefect")):
                extra = statistics.median(
                    k - b for k, b in zip(times[kind], times["bare"], strict=True)
                )
                say(
                    f"overhead: urea, {engine}, {n} candidates, one worker: bare loop {base:.1f} "
                    f"s, with {what} {100 * extra / base:+.1f} %, {1e3 * extra / n:.1f} ms a "
                    "candidate"
                )
                results[f"overhead_{engine}_{kind}"] = {"bare_s": base, "extra_s": extra, "n": n}


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its descendants, MB."""
    tree = subprocess.run(
        ["ps", "-o", "pid=,ppid=,rss=", "-A"], capture_output=True, text=True, check=True
    ).stdout
    rows = [tuple(map(int, line.split())) for line in tree.splitlines()]
    family, grown = {pid}, True
    while grown:
        grown = False
        for p, parent, _ in rows:
            if parent in family and p not in family:
                family.add(p)
                grown = True
    return sum(rss for p, _, rss in rows if p in family) / 1024


def scale(results: dict[str, Any], sizes: tuple[int, ...] = (100, 1000, 10000)) -> None:
    """Cost and memory against the number of candidates, each size in a process of its own."""
    for n in sizes:
        root = tempfile.mkdtemp()
        command = [sys.executable, __file__, "_scale", "--n", str(n), "--folder", root]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_mb(process.pid))
            time.sleep(0.5)
        assert process.stdout is not None
        assert process.returncode == 0
        found = json.loads(process.stdout.read().splitlines()[-1])
        stages = {k: v for k, v in found.items() if k in ("hydrogenate", "relax_h", "relax")}
        parts = ", ".join(f"{name} {1e3 * v / n:.1f}" for name, v in stages.items())
        say(
            f"scale: urea, springs, n = {n}: {parts} ms a candidate; parent {found['rss_mb']:.0f} "
            f"MB, all processes {peak:.0f} MB; statuses {found['statuses']}"
        )
        results[f"scale_{n}"] = {**found, "peak_mb": peak}
        shutil.rmtree(root)


def _scale(n: int, folder: str) -> None:
    from packflow_core.stages.run_store import RunStore

    with stand_in():
        seconds = machinery(Path(folder) / "run", "springs", n, len(os.sched_getaffinity(0)), False)
    attempts = RunStore(Path(folder) / "run").attempts("relax")
    statuses = Counter(f"{a.status} {a.reason}".strip() for a in attempts.values())
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**seconds, "rss_mb": rss, "statuses": dict(statuses)}))


def say(text: str) -> None:
    """A line at once."""
    print(text, flush=True)


def main() -> None:
    """Run what the command line names."""
    parts = {"parity": parity, "batch": batch, "cores": cores, "overhead": overhead, "scale": scale}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=[*parts, "all", "_scale"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--n", type=int, default=100, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "_scale":
        _scale(given.n, given.folder)
        return
    results: dict[str, Any] = {}
    for name, part in parts.items():
        if given.what in (name, "all"):
            part(results)
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
