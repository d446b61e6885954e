"""Where the chunks of a run are worked on: in threads of the flow's process, or on a Dask cluster.

PACKFLOW_RUNNER chooses, because a task runner belongs to the environment of a worker, not to a
prediction:

    threads               in this process (default)
    dask:4                a Dask cluster of 4 processes on this machine
    dask:tcp://HOST:8786  the cluster of a running scheduler
    dask:FILE.yaml        arguments of prefect_dask.DaskTaskRunner, for example a SLURMCluster

A chunk on another machine reads and writes the run folder, so that must be on a shared file system.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prefect.task_runners import ThreadPoolTaskRunner

from packflow_core import progress
from packflow_core.errors import UserInputError
from packflow_core.stages.run_store import RunStore

logger = logging.getLogger(__name__)

RUNNER = "PACKFLOW_RUNNER"
#: Name of the global concurrency limit that a stage holds a slot of while it computes on GPUs.
GPU_LIMIT = "PACKFLOW_GPU_LIMIT"
_GPU_LIMIT_DEFAULT = "gpu"

#: Chunks under way at once in one process. They share one pool of workers, so this is not
#: parallelism: a second chunk only keeps the workers busy while the slowest candidate of the
#: first one ends.
_CHUNKS_AT_ONCE = 2
_INSTALL = "pip install 'packflow-csp[dask]'"
_FORMS = "threads, dask:NUMBER, dask:tcp://HOST:PORT or dask:FILE.yaml"
#: Time between two looks at the ledger of a stage whose chunks are elsewhere, s.
_LOOK_S = 5.0
#: ... and at least so many times what a look takes.
_LOOK_SHARE = 20.0


def task_runner(wanted: str | None = None) -> Any:
    """Runner of the flows' tasks.

    Args:
        wanted: one of the forms above; PACKFLOW_RUNNER when None.

    Raises:
        UserInputError: no such form, prefect-dask is not installed, or the file is wrong.
    """
    form = os.environ.get(RUNNER, "") if wanted is None else wanted
    kind, _, rest = form.partition(":")
    if form in ("", "threads"):
        return ThreadPoolTaskRunner(max_workers=_CHUNKS_AT_ONCE)
    if kind != "dask" or not rest:
        raise UserInputError(f"{RUNNER}={form} is not a task runner; choose {_FORMS}.")
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise UserInputError(f"{RUNNER}={form} needs prefect-dask; {_INSTALL}.") from error
    if rest.isdecimal():
        if not int(rest):
            raise UserInputError(f"{RUNNER}={form} asks for no process; choose {_FORMS}.")
        return DaskTaskRunner(
            cluster_class="distributed.LocalCluster",
            cluster_kwargs={
                "n_workers": int(rest), "threads_per_worker": _CHUNKS_AT_ONCE,
                "processes": True, "dashboard_address": None,
            },
        )  # fmt: skip
    if "://" in rest:
        return DaskTaskRunner(address=rest)
    return DaskTaskRunner(**read_cluster(Path(rest)))


def read_cluster(path: Path) -> dict[str, Any]:
    """Arguments of `DaskTaskRunner` from a YAML file.

    Raises:
        UserInputError: no such file, or not a mapping with one of the arguments that make a
            cluster.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserInputError(f"The cluster file {path} of {RUNNER} cannot be read.") from error
    known = {"address", "cluster_class", "cluster_kwargs", "adapt_kwargs", "client_kwargs"}
    if not isinstance(content, dict) or not {"address", "cluster_class"} & set(content):
        raise UserInputError(
            f"The cluster file {path} must be a mapping with cluster_class or address."
        )
    if unknown := set(content) - known:
        raise UserInputError(
            f"The cluster file {path} has the unknown field {min(unknown)}; fields are "
            f"{', '.join(sorted(known))}."
        )
    return {str(name): value for name, value in content.items()}


def is_elsewhere(runner: Any) -> bool:
    """Whether a runner's tasks are in other processes than the flow."""
    return not isinstance(runner, ThreadPoolTaskRunner)


@contextmanager
def gpu_slot(device: str) -> Iterator[None]:
    """Hold a slot of the concurrency limit for GPUs while a stage computes on one.

    Stages of several runs that share a machine's GPU wait for each other then, and the GPU has one
    model in its memory. Where nobody made such a limit on the server nothing waits.

    Args:
        device: of the stage, see `packflow_core.devices`; on the CPU nothing is held.
    """
    if not uses_gpu(device):
        yield
        return
    from prefect.concurrency.sync import concurrency

    name = os.environ.get(GPU_LIMIT) or _GPU_LIMIT_DEFAULT
    with concurrency(name, occupy=1, strict=False):
        yield


def uses_gpu(device: str) -> bool:
    """Whether a stage on that device has a seat on a GPU of this machine."""
    from packflow_core.devices import find_gpus

    names = [name.strip() for name in device.split(",")]
    return any(name.startswith("cuda") for name in names) or (
        names == ["auto"] and bool(find_gpus())
    )


@contextmanager
def watched(run: RunStore, stage: str) -> Iterator[None]:
    """Tell the progress what chunks elsewhere record, from the ledger."""
    end = threading.Event()
    told = _counts(run, stage)

    def look() -> None:
        nonlocal told
        now = _counts(run, stage)
        for status, count in (now - told).items():
            progress.current().advance(stage, status, count)
        told = now

    def watch() -> None:
        pause = _LOOK_S
        while not end.wait(pause):
            began = time.monotonic()
            try:
                look()
            except Exception:
                logger.debug("the ledger of %s cannot be read just now", stage, exc_info=True)
            # A ledger of a million rows takes seconds to read.
            pause = max(_LOOK_S, _LOOK_SHARE * (time.monotonic() - began))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        look()


def _counts(run: RunStore, stage: str) -> Counter[str]:
    return Counter(attempt.status for attempt in run.attempts(stage).values())
