"""Generators for ranks that do as files in the run's folder say; the ranks find this by its name.

A file `hold-7` makes whoever has candidate 7 say so in `holding-7-ATTEMPT` (the process id) and
wait for `release-7`; a file `die-7` with the text "2" makes the first two attempts at it kill
their process.
"""

import os
import signal
import time

import numpy as np

from packflow_core.crystal.crystal import Crystal
from packflow_core.errors import UserInputError
from packflow_core.stages.generators import completed
from packflow_core.store.rows import crystal_columns

PATIENCE_S = 300.0


def make(run, block):
    """A carbon and an oxygen in a box for each candidate; every fifth is rejected."""
    for index, attempt in block:
        _obey(run.folder, index, attempt)
    print(f"made {[index for index, _ in block]}", flush=True)
    return [_row(run, index, attempt) for index, attempt in block]


def refuse(run, block):
    raise UserInputError("This molecule cannot be; give another.")


def die(run, block):
    os.kill(os.getpid(), signal.SIGKILL)


def end_early(run, block):
    """Leave like a program that calls exit."""
    os._exit(3)


def break_down(run, block):
    raise ValueError("a bug")


def eat(run, block):
    """Too much for memory, unless alone."""
    if len(block) > 1:
        raise MemoryError
    return make(run, block)


def forget(run, block):
    return make(run, block)[1:]


def _obey(folder, index, attempt):
    if (folder / f"hold-{index}").exists():
        said = folder / f".tmp-{index}"
        said.write_text(str(os.getpid()))
        os.replace(said, folder / f"holding-{index}-{attempt}")
        end = time.monotonic() + PATIENCE_S
        while not (folder / f"release-{index}").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
    deadly = folder / f"die-{index}"
    if deadly.exists() and attempt <= int(deadly.read_text()):
        os.kill(os.getpid(), signal.SIGKILL)


def _row(run, index, attempt):
    spec = run.plan.spec
    z = spec.z[index % len(spec.z)]
    rng = np.random.default_rng([spec.seed, index])
    crystal = Crystal(
        np.tile([6, 8], z), rng.uniform(0, 9, (2 * z, 3)), np.diag([9.0, 10.0, 11.0]), z
    )
    rejected = index % 5 == 4
    row = {
        "candidate_id": f"{spec.name}-z{z}-{index:06d}", "index": index, "z": z,
        "status": "rejected" if rejected else "ok", "reason": "bad_cell" if rejected else "",
        "detail": "", **crystal_columns(crystal),
    }  # fmt: skip
    return completed(run, row, attempt, 0.5)
