"""What Prefect costs: the same run with and without it, and one task of a flow by itself.

    python benchmarks/prefect_overhead.py run --n 32 --pairs 2
    python benchmarks/prefect_overhead.py tasks --tasks 300

`run` works the same candidates through `packflow_core.stages.pipeline` and through the flow with
its temporary server, each in a process of its own, in turns. Processor seconds count all processes,
the server among them, and do not depend on what else the machine does; seconds on the clock do.
`tasks` measures tasks that do nothing. A run has at most 900 tasks, whatever its size, so their
share follows from what the run itself takes; the last lines say it for some runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

SPEC: dict[str, Any] = {
    "smiles": "NC(N)=O",
    "name": "urea",
    "z": [2, 4],
    "generator": "random",
    "engine": os.environ.get("OVERHEAD_ENGINE", "gfnff"),
}
#: Time after which the server has nothing left to do, s.
SETTLE_S = 20.0
#: Runs to compare with: candidates, and core seconds a candidate as measured with gfnff.
RUNS = {
    "16 candidates of OBEQOD": (16, 31.0),
    "1,000 candidates of OBEQOD": (1000, 31.0),
    "10,000 candidates of OBEQOD": (10_000, 31.0),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--n", type=int, default=32)
    run.add_argument("--pairs", type=int, default=2)
    run.add_argument("--workers", type=int, default=2)
    run.add_argument("--engine", default="gfnff")
    tasks = commands.add_parser("tasks")
    tasks.add_argument("--tasks", type=int, default=300)
    child = commands.add_parser("child")
    child.add_argument("how", choices=["plain", "flow"])
    child.add_argument("folder", type=Path)
    child.add_argument("n", type=int)
    child.add_argument("workers", type=int)
    options = parser.parse_args()
    if options.command == "run":
        os.environ["OVERHEAD_ENGINE"] = options.engine  # for the children
        compare(options.n, options.pairs, options.workers)
    elif options.command == "tasks":
        time_tasks(options.tasks)
    elif options.how == "plain":
        plain(options.folder, options.n, options.workers)
    else:
        flow(options.folder, options.n, options.workers)


# -- the same run twice ---------------------------------------------------------------------------
def compare(n: int, pairs: int, workers: int) -> None:
    """Alternate between the two and print what each took."""
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "flow": []}
    with tempfile.TemporaryDirectory(prefix="packflow-overhead-") as folder:
        for pair in range(pairs):
            for how in ("plain", "flow"):
                out = Path(folder) / f"{how}-{pair}"
                found[how].append(timed(how, out, n, workers))
                print(
                    f"{how}: {found[how][-1][0]:.1f} s, {found[how][-1][1]:.1f} CPU s", flush=True
                )
            one, two = (Path(folder) / f"{how}-{pair}" / "ranked.csv" for how in found)
            print(f"the same ranked table: {one.read_bytes() == two.read_bytes()}", flush=True)
    wall = {how: min(w for w, _ in times) for how, times in found.items()}
    cpu = {how: min(c for _, c in times) for how, times in found.items()}
    print(
        json.dumps(
            {
                "candidates": n,
                "best clock s": {how: round(s, 1) for how, s in wall.items()},
                "best CPU s": {how: round(s, 1) for how, s in cpu.items()},
                "Prefect's CPU s": round(cpu["flow"] - cpu["plain"], 1),
            }
        )
    )


def timed(how: str, folder: Path, n: int, workers: int) -> tuple[float, float]:
    """Clock and processor seconds of a process with all its descendants."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, __file__, "child", how, str(folder), str(n), str(workers)], check=True
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def plain(folder: Path, n: int, workers: int) -> None:
    """The stages as plain functions."""
    from packflow_core.spec import make_spec
    from packflow_core.stages.finish import write_results
    from packflow_core.stages.pipeline import run_stages
    from packflow_core.stages.pools import close_pools
    from packflow_core.stages.run_store import OpenRun, plan_for

    spec = make_spec({**SPEC, "n": n})
    folder.mkdir(parents=True)
    with OpenRun(folder, plan_for(spec, folder), workers=workers) as run:
        run_stages(run, workers)
        write_results(folder, workers)
        run.end_session("finished")
    close_pools()


def flow(folder: Path, n: int, workers: int) -> None:
    """The flow, as `csp run` runs it."""
    from flows.console import Terminal
    from flows.how import How
    from flows.run_commands import run
    from packflow_core.spec import make_spec

    terminal = Terminal()
    terminal.quiet = True
    if run(terminal, make_spec({**SPEC, "n": n}), folder, How(workers=workers)):
        sys.exit("the run failed")


# -- a task by itself -----------------------------------------------------------------------------
def time_tasks(count: int) -> None:
    """Time tasks that do nothing, with the options of ours, on a temporary server."""
    from flows import local_api

    local_api.prepare()
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    local_api.start_server()
    from prefect import flow as prefect_flow
    from prefect import task
    from prefect.futures import wait

    from flows.body import task_runner
    from tasks.policy import OPTIONS

    @task(**OPTIONS)
    def nothing(number: int) -> int:
        return number

    @prefect_flow(task_runner=task_runner(), persist_result=False)
    def many(tasks: int) -> None:
        wait([nothing.submit(i) for i in range(tasks)])

    many(10)  # imports, connections
    seconds = {}
    for tasks in (1, count):
        began, cpu = time.perf_counter(), cpu_seconds()
        many(tasks)
        wall = time.perf_counter() - began
        time.sleep(SETTLE_S)  # the server digests the last states after the flow has ended
        seconds[tasks] = (wall, cpu_seconds() - cpu)
    each = [(seconds[count][k] - seconds[1][k]) / (count - 1) for k in (0, 1)]
    print(
        f"{count} tasks: {each[0] * 1e3:.1f} ms on the clock and {each[1] * 1e3:.1f} ms of CPU "
        f"each, client and server together; a flow run with one task: {seconds[1][0]:.1f} s"
    )
    share(each[1])


def cpu_seconds() -> float:
    """Processor seconds of this process and of its children that live."""
    from packflow_core.process_memory import children

    total = time.process_time()
    for pid in children(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def share(task_s: float) -> None:
    """Share of the tasks' CPU time in runs of known cost."""
    from packflow_core.stages.registry import MAX_TASKS, WORK, chunks

    for name, (n, core_s) in RUNS.items():
        tasks = 1 + sum(len(chunks(stage, [(i, 1) for i in range(n)])) for stage in WORK)
        print(
            f"{name}: {tasks} tasks, {tasks * task_s:.1f} of {n * core_s:.0f} core seconds: "
            f"{tasks * task_s / (n * core_s):.3%}"
        )
    print(f"at most, in any run: {MAX_TASKS} tasks, {MAX_TASKS * task_s:.0f} core seconds")


if __name__ == "__main__":
    main()
