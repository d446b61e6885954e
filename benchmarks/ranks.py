"""Candidates per second of `random` and `random+press`: in this process, and by 1 and 2 MPI ranks.

    python benchmarks/ranks.py                       # aspirin, Z = 4
    python benchmarks/ranks.py --n 1280 --ranks 1 2 4 8

Everything is measured in one run, one after the other, with one thread for each process, several
times in turns; the table has the median. The time until the first block is recorded, less what a
block takes, is called the start: it holds imports, conformers and the press made fit for the
molecule, and where there are ranks also the launcher and MPI. The rate is that of all later blocks.
Candidates per CPU second, start included, hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from packflow_core.mpi.launch import run_ranks
from packflow_core.spec import make_spec
from packflow_core.stages.generators import block_size, make_rows
from packflow_core.stages.run_store import OpenRun, RunStore, plan_for
from packflow_core.worker_process import THREAD_VARIABLES

SMILES = "CC(=O)Oc1ccccc1C(=O)O"
#: Baselines, and how many times as many candidates they make in about the same time.
METHODS = {"random": 2, "random+press": 1}

#: Has candidates made, and tells of each row at once.
Work = Callable[[RunStore, list[tuple[int, int]], Callable[[str], None]], None]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smiles", default=SMILES)
    parser.add_argument("--z", type=int, default=4, help="molecules in the primitive cell")
    parser.add_argument("--n", type=int, default=640, help="candidates of random+press")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(RunStore(args.child))
        return
    ways: dict[str, Work] = {"1 process": in_process}
    ways |= {f"{n} rank{'s' if n > 1 else ''}": by_ranks(n) for n in args.ranks}
    print(f"{args.smiles}, Z = {args.z}, {args.n} candidates (random: "
          f"{args.n * METHODS['random']}), median of {args.rounds}; "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"{'':14}{'':12}{'start s':>9}{'per s':>9}{'ratio':>8}{'per CPU s':>11}")
    for method, times in METHODS.items():
        measured: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, work in ways.items():
                measured[way].append(measure(method, args.smiles, args.z, args.n * times, work))
        medians = {way: np.median(values, axis=0) for way, values in measured.items()}
        for way, (start, rate, per_cpu) in medians.items():
            ratio = rate / medians["1 process"][1]
            print(
                f"{method:14}{way:12}{start:9.1f}{rate:9.1f}{ratio:8.2f}{per_cpu:11.1f}", flush=True
            )


def measure(method: str, smiles: str, z: int, n: int, work: Work) -> tuple[float, ...]:
    """Start in s, candidates per second after it, and per CPU second, of a run of n candidates."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        spec = make_spec({"smiles": smiles, "name": "x", "z": [z], "n": n, "generator": method})
        with OpenRun(path, plan_for(spec, path), command=["ranks.py"]) as run:
            times: list[float] = []
            began, used = time.perf_counter(), cpu_seconds()
            work(run, run.pending("generate"), lambda status: times.append(time.perf_counter()))
            used = cpu_seconds() - used
    if len(times) != n:
        raise SystemExit(f"{len(times)} of {n} candidates were recorded")
    # Rows are told of in batches: those of the first one are done when the clock starts.
    first = times[0]
    told = sum(moment - first < 0.05 for moment in times)
    rate = (n - told) / (times[-1] - first)
    return first - began - told / rate, rate, n / used


def cpu_seconds() -> float:
    """Of all processes that this one has started and that have ended, and of those' own."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def in_process(run: RunStore, work: list[tuple[int, int]], on_row: Callable[[str], None]) -> None:
    """In one process without MPI: a fresh one, that imports everything, as ranks do."""
    command = [sys.executable, __file__, "--child", str(run.folder)]
    one_thread = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, text=True, env=one_thread) as process:
        assert process.stdout is not None
        for status in process.stdout:
            on_row(status)


def child(run: RunStore) -> None:
    """Make what is pending, block by block, and print the status of each row."""
    work, size = run.pending("generate"), block_size(run.plan.spec)
    for begin in range(0, len(work), size):
        rows = make_rows(run, work[begin : begin + size])
        run.stage("generate").write_part(rows)
        print(*(row["status"] for row in rows), sep="\n", flush=True)


def by_ranks(ranks: int) -> Work:
    """So many MPI ranks."""

    def work(run: RunStore, pairs: list[tuple[int, int]], on_row: Callable[[str], None]) -> None:
        run_ranks(run, "generate", pairs, ranks, on_row)

    return work


if __name__ == "__main__":
    main()
