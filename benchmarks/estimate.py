"""How often a forecast holds: pilots drawn from finished runs, against what the runs really took.

    python benchmarks/estimate.py runs/a runs/b --pilot 8

Each pilot takes candidates of every Z at random from a finished run and forecasts the working time
of the whole run. Nothing is computed anew, so the machine's load does not matter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from packflow_core.estimate import forecast
from packflow_core.estimate_pilot import Pilot, StagePilot
from packflow_core.stages.plan import z_of
from packflow_core.stages.run_store import RunStore

Times = dict[str, dict[int, float]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="+", help="finished run folders")
    parser.add_argument("--pilot", type=int, default=8, help="candidates of a pilot")
    parser.add_argument("--pilots", type=int, default=200, help="pilots per run")
    options = parser.parse_args()
    for folder in options.folder:
        run = RunStore(folder)
        times: Times = {
            stage: {
                row["index"]: row["wall_s"]
                for row in run.stage(stage).table(("index", "wall_s")).to_pylist()
                if row["wall_s"] is not None
            }
            for stage in run.plan.stage_names
        }
        truth = sum(sum(of_stage.values()) for of_stage in times.values()) / 3600.0
        rng = np.random.default_rng(0)
        found = np.array(
            [
                forecast(draw_pilot(run, times, options.pilot, rng)).core_hours
                for _ in range(options.pilots)
            ]
        )
        low, middle, high = found.T
        held = float(np.mean((low <= truth) & (truth <= high)))
        print(
            f"{folder}: {run.plan.spec.n} candidates took {truth:.3f} core hours; of "
            f"{len(found)} forecasts from {options.pilot}, {held:.0%} hold that; the middle is "
            f"{np.median(middle) / truth:.2f} of it, the ends {np.mean(low) / truth:.2f} and "
            f"{np.mean(high) / truth:.2f} on average"
        )


def draw_pilot(run: RunStore, times: Times, size: int, rng: np.random.Generator) -> Pilot:
    """A pilot of random candidates of a finished run, equally many of each Z."""
    spec, names = run.plan.spec, run.plan.stage_names
    by_z: dict[int, list[int]] = {}
    for index in range(spec.n):
        by_z.setdefault(z_of(index, spec.z_cycle), []).append(index)
    each = max(1, size // len(by_z))
    chosen = [int(i) for v in by_z.values() for i in rng.choice(v, each, replace=False)]
    stages = []
    for stage, after in zip(names, (*names[1:], names[-1]), strict=True):
        seconds: dict[int, list[float]] = {}
        for index in chosen:
            if index in times[stage]:
                seconds.setdefault(z_of(index, spec.z_cycle), []).append(times[stage][index])
        stages.append(
            StagePilot(
                stage=stage,
                seconds=seconds,
                tried=sum(map(len, seconds.values())),
                passed=sum(index in times[after] for index in chosen),
                limit_s=float("inf"),
                seats=1,
                batched=False,
                row_bytes=0.0,
                part_bytes=0.0,
                parent_mb=0.0,
                worker_mb=0.0,
            )
        )
    return Pilot(spec, size, 0.0, tuple(stages), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


if __name__ == "__main__":
    main()
