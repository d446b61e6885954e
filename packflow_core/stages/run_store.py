"""A run folder: run.json, the lock, the stage folders, and who may write there."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from packflow_core import __version__
from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.spec import RunSpec
from packflow_core.stages.plan import RunPlan, accepted_by, differences, make_plan
from packflow_core.stages.requeue import wanted_attempts
from packflow_core.store.atomic import (
    make_folder,
    remove_temporaries,
    storage_errors,
    write_bytes,
    write_json,
)
from packflow_core.store.ledger import Attempt, StageLedger, attempts, stage_ledger
from packflow_core.store.lock import RunLock, is_locked
from packflow_core.store.schema import Status
from packflow_core.store.stage_store import StageStore

RUN_JSON = "run.json"
REFERENCE = "reference.cif"
LOG = "csp.log"
FORMAT = 1

#: Packages whose versions a result may depend on.
_PACKAGES = (
    "ase", "fairchem-core", "gfnff", "numpy", "oxtalign", "pandas", "prefect", "pyarrow",
    "pydantic", "pymatgen", "rdkit", "scipy", "spglib", "tblite", "torch",
)  # fmt: skip


class RunStore:
    """A run folder that exists.

    Args:
        folder: holds run.json.

    Raises:
        UserInputError: it is not a run folder.
        RunFailedError: run.json is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = _read_run_json(folder)
        self.plan = RunPlan.from_json(self.content)

    @property
    def reference(self) -> Path | None:
        """The run's own copy of the reference CIF."""
        return self.folder / REFERENCE if self.plan.reference_sha256 else None

    def spec_to_resume(self) -> RunSpec:
        """The run's spec; its reference is the run's own copy, which nobody moves away."""
        spec = self.plan.spec
        if self.reference is None:
            return spec
        return spec.model_copy(update={"reference": str(self.reference.resolve())})

    @property
    def status(self) -> str:
        """running, finished, failed or interrupted; a run that was killed counts as interrupted."""
        recorded = str(self.content.get("status", "interrupted"))
        if recorded == "running" and not is_locked(self.folder):
            return "interrupted"
        return recorded

    def stage(self, name: str) -> StageStore:
        """Table of a stage."""
        return StageStore(self.folder, name, self.plan.key(name))

    def stage_selection(self, stage: str | None) -> tuple[str, ...]:
        """All stages of the run, or the one that a user names.

        Raises:
            UserInputError: the run has no such stage.
        """
        names = self.plan.stage_names
        if stage is not None and stage not in names:
            raise UserInputError(f"--stage {stage} is not a stage; stages are {', '.join(names)}.")
        return names if stage is None else (stage,)

    def attempts(self, stage: str, indices: Iterable[int] | None = None) -> dict[int, Attempt]:
        """Latest attempt of the candidates of a stage, all when None, by index."""
        return attempts(self.stage(stage), indices)

    def eligible(self, stage: str) -> list[int]:
        """Indices of the candidates that a stage takes, ascending."""
        upstream = self.plan.upstream_of(stage)
        if upstream is None:
            return list(range(self.plan.spec.n))
        accepted = accepted_by(self.plan.spec, stage)
        return [i for i, a in self.attempts(upstream).items() if a.status in accepted]

    def pending(self, stage: str, retry_failed: bool = False) -> list[tuple[int, int]]:
        """Work left in a stage: candidates without a row, and failed ones that get another try.

        A failure is tried again while its reason allows (see `RETRY`), or when it was queued
        again by hand.

        Args:
            stage: its name.
            retry_failed: also candidates that failed for a reason another attempt may cure.

        Returns:
            Pairs (candidate index, number of the coming attempt), by index.
        """
        return self._work(stage, self.eligible(stage), retry_failed)

    def _work(
        self, stage: str, eligible: list[int], retry_failed: bool = False
    ) -> list[tuple[int, int]]:
        done = self.attempts(stage)
        wanted = wanted_attempts(self.folder, stage, self.plan.key(stage))
        work = []
        for index in eligible:
            last = done.get(index)
            if last is None:
                work.append((index, 1))
            elif last.status == Status.FAILED and (
                not last.final
                or last.attempt < wanted.get(index, 0)
                or (retry_failed and last.retryable)
            ):
                work.append((index, last.attempt + 1))
        return work

    def ledger(self) -> list[StageLedger]:
        """Counts of every stage, in order."""
        return [self.stage_ledger(name) for name in self.plan.stage_names]

    def stage_ledger(self, stage: str) -> StageLedger:
        """Counts of one stage."""
        eligible = self.eligible(stage)
        again = sum(attempt > 1 for _, attempt in self._work(stage, eligible))
        return stage_ledger(self.stage(stage), len(eligible), again)

    # -- changes, for the holder of the lock ---------------------------------------------------
    def save(self, **values: Any) -> None:
        """Update run.json."""
        self.content.update(values)
        with storage_errors(self.folder):
            write_json(self.folder / RUN_JSON, self.content)

    def end_session(self, status: str, **values: Any) -> None:
        """Record that this process is done with the run."""
        session = {**self.content["sessions"][-1], "ended": now(), "status": status, **values}
        sessions = [*self.content["sessions"][:-1], session]
        self.save(status=status, finished=session["ended"], sessions=sessions)


class OpenRun:
    """A run folder held by this process: created or continued, locked, cleaned up.

    Args:
        folder: where; created when missing.
        plan: what the run is.
        command: the command line that started it, for run.json.
        workers: for run.json; None for one per processor.
        rerank: accept another reference and other rank parameters than the folder's.
    """

    def __init__(
        self,
        folder: Path,
        plan: RunPlan,
        command: list[str] | None = None,
        workers: int | None = None,
        rerank: bool = False,
    ) -> None:
        self._folder = folder
        self._plan = plan
        self._command = shlex.join(sys.argv if command is None else command)
        self._workers = workers
        self._rerank = rerank
        self._lock = RunLock(folder)

    def __enter__(self) -> RunStore:
        make_folder(self._folder)
        self._lock.acquire()
        try:
            check_same_run(self._folder, self._plan, self._rerank)
            return self._open()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def _open(self) -> RunStore:
        folder, plan = self._folder, self._plan
        with storage_errors(folder):
            remove_temporaries(folder)
            if plan.spec.reference is not None:
                content = Path(plan.spec.reference).read_bytes()
                if not _holds(folder / REFERENCE, content):
                    write_bytes(folder / REFERENCE, content)
            before = _read_run_json(folder) if (folder / RUN_JSON).exists() else {}
            started = now()
            session = {
                "command": self._command,
                "working_directory": os.getcwd(),
                "started": started,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "workers": self._workers,
                "status": "running",
            }
            content_json = {
                "format": FORMAT,
                "status": "running",
                "created": before.get("created", started),
                "finished": None,
                "command": before.get("command", self._command),
                **plan.to_json(),
                "engine": plan.engine,
                "seed": plan.spec.seed,
                "versions": versions(),
                "host": host_info(),
                "sessions": [*before.get("sessions", []), session],
            }
            write_json(folder / RUN_JSON, content_json)
        store = RunStore(folder)
        for name in plan.stage_names:
            store.stage(name).prepare()
        return store


def plan_for(spec: RunSpec, folder: Path, rerank: bool = False) -> RunPlan:
    """Plan of a spec in a folder that may hold an earlier part of the same run.

    Args:
        spec: what to do.
        folder: may not exist yet.
        rerank: keep everything before the ranking as the folder recorded it, whatever engine is
            installed now.

    Raises:
        UserInputError: an input is wrong. A checkpoint that is gone is none while nothing is
            left to sample.
    """
    if not (folder / RUN_JSON).is_file():
        return make_plan(spec)
    run = RunStore(folder)
    recorded = run.plan
    # The pool is in the folder: the file that it came from may be gone.
    same = spec.conformers == recorded.spec.conformers
    gone = same and spec.conformers.file is not None and not Path(spec.conformers.file).is_file()
    pool = recorded.conformers if gone else None
    if rerank:
        kept = {name: stage.identity for name, stage in recorded.stages.items() if name != "rank"}
        return make_plan(spec, recorded.generator, kept, pool)
    try:
        return make_plan(spec, conformers=pool)
    except UserInputError:
        if spec.generator != recorded.spec.generator or run.pending("generate"):
            raise
        return make_plan(spec, recorded.generator, conformers=pool)


def check_same_run(folder: Path, plan: RunPlan, rerank: bool = False) -> None:
    """Refuse a folder that holds something else than `plan`.

    Raises:
        UserInputError: it holds another run (the message says what differs), or files of others.
    """
    if not (folder / RUN_JSON).exists():
        # A lock and temporary files are what a run killed at its very start leaves.
        foreign = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        foreign = [name for name in foreign if name not in (LOG, REFERENCE)]
        if foreign:
            raise UserInputError(
                f"The folder {folder} holds other files ({', '.join(foreign[:3])}"
                f"{', ...' if len(foreign) > 3 else ''}); choose an empty or new one with --out."
            )
        return
    differing = differences(RunPlan.from_json(_read_run_json(folder)), plan)
    if rerank:
        differing = [d for d in differing if not d.startswith(("rank.", "reference "))]
    if differing:
        raise UserInputError(
            f"The folder {folder} holds another run: {'; '.join(differing)}; choose another with "
            "--out."
        )


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python, this package and what a result may depend on."""
    found = {"python": platform.python_version(), "packflow-csp": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def host_info() -> dict[str, Any]:
    """The machine, as far as a result or its speed may depend on it."""
    return {
        "name": socket.gethostname(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _read_run_json(folder: Path) -> dict[str, Any]:
    path = folder / RUN_JSON
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserInputError(
            f"{folder} is not a run folder ({RUN_JSON}: {error.strerror}); give the folder that "
            "'csp run' wrote."
        ) from error
    except ValueError as error:
        raise RunFailedError(f"{path} is damaged ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunFailedError(f"{path} was written by another version of packflow-csp.")
    return content
