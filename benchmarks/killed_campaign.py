"""A campaign that is killed again and again, against one that is not: the real command, kill -9.

    python benchmarks/killed_campaign.py --n 1000 --folder /tmp/campaign

Prints what each kill found done and left open, and compares every row of every stage at the end.
Exit code 1 when anything differs, was lost, or was done twice.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import same_result

SMILES = "NC(N)=O"
#: Kills: the stage, and the fraction of its candidates that are done by then.
KILLS = (("generate", 0.4), ("relax", 0.2), ("relax", 0.6))


def command(folder: Path, n: int, engine: str) -> list[str]:
    """A run with a quick sampler: the generator is not what is tested."""
    return [
        sys.executable, "-m", "flows.cli", "run", SMILES, "--name", "urea", "--z", "2,4",
        "--n", str(n), "--engine", engine, "--steps", "10", "--set", "generate.restarts=[]",
        "--out", str(folder), "--quiet",
    ]  # fmt: skip


def done_in(folder: Path, stage: str) -> int:
    """Recorded candidates of a stage."""
    if not (folder / "run.json").exists():
        return 0
    return len(RunStore(folder).attempts(stage))


def finished(folder: Path) -> dict[tuple[str, int], tuple[int, float]]:
    """Attempt and working time of every recorded candidate: what tells one attempt from another."""
    run = RunStore(folder)
    return {
        (stage, row["index"]): (row["attempt"], row["wall_s"])
        for stage in run.plan.stage_names
        for row in run.stage(stage).table(("index", "attempt", "wall_s")).to_pylist()
    }


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A command of its own, in the project's folder."""
    return subprocess.Popen(arguments, cwd=Path(__file__).parents[1])


def clock(began: float) -> str:
    """Seconds since the beginning."""
    return f"{time.perf_counter() - began:6.0f} s"


def killed_run(folder: Path, n: int, engine: str, began: float) -> bool:
    """Run, kill, continue; whether nothing was lost and nothing done twice."""
    resume = [sys.executable, "-m", "flows.cli", "resume", str(folder), "--quiet"]
    before: dict[tuple[str, int], tuple[int, float]] = {}
    sound = True
    arguments = command(folder, n, engine)
    for stage, fraction in KILLS:
        process = start(arguments)
        while done_in(folder, stage) < fraction * n and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        time.sleep(1.5)  # the orphaned workers end by themselves
        now = finished(folder)
        sound &= before.items() <= now.items() and code == -signal.SIGKILL
        run = RunStore(folder)
        states = sum(
            len(list((run.stage(s).folder / "states").glob("*.states")))
            for s in run.plan.stage_names
        )
        counts = ", ".join(f"{s.stage} {s.attempted}" for s in run.ledger() if s.attempted)
        print(
            f"{clock(began)}  kill -9 in {stage}: exit {code}, status {run.status}; recorded: "
            f"{counts}; files of optimiser states: {states}; earlier rows untouched: "
            f"{before.items() <= now.items()}",
            flush=True,
        )
        before, arguments = now, resume
    code = start(resume).wait()
    after = finished(folder)
    sound &= before.items() <= after.items() and code == 0
    print(
        f"{clock(began)}  resumed to the end: exit {code}; {len(after)} rows, "
        f"{len(after) - len(before)} of them new; earlier rows untouched: "
        f"{before.items() <= after.items()}",
        flush=True,
    )
    return sound


def compare(a: Path, b: Path) -> bool:
    """Whether two runs hold the same rows in every stage."""
    one, other = RunStore(a), RunStore(b)
    same = True
    for stage in one.plan.stage_names:
        ours, theirs = one.stage(stage).rows(), other.stage(stage).rows()
        equal = len(ours) == len(theirs) and all(map(same_result, ours, theirs))
        print(f"{stage:<12} {len(ours):>6} rows, identical to the unbroken run: {equal}")
        same &= equal
    ranked = (a / "ranked.csv").read_bytes() == (b / "ranked.csv").read_bytes()
    print(f"ranked.csv   the same bytes: {ranked}")
    return same and ranked


def main() -> int:
    """Run both campaigns and compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--engine", default="springs")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = time.perf_counter()
    sound = killed_run(given.folder / "killed", given.n, given.engine, began)
    code = start(command(given.folder / "unbroken", given.n, given.engine)).wait()
    print(f"{clock(began)}  unbroken run: exit {code}")
    sound &= compare(given.folder / "killed", given.folder / "unbroken") and code == 0
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
