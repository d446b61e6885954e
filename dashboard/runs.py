"""What a run folder says about a run: who it is, how far it is, what became of its candidates."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dashboard.tables import StageTable, TableCache
from packflow_core.errors import PackflowError
from packflow_core.stages.plan import accepted_by
from packflow_core.stages.requeue import wanted_attempts
from packflow_core.stages.run_store import RunStore
from packflow_core.store.ledger import Attempt
from packflow_core.store.schema import Status

RANKED = "ranked.parquet"
_RANKED_COLUMNS = ("index", "rank", "cluster", "cluster_size", "representative")


@dataclass(frozen=True)
class ReasonCount:
    """Candidates of one stage that ended alike.

    Attributes:
        status: unconverged, rejected or failed.
        reason: of the schema.
        count: candidates.
    """

    status: str
    reason: str
    count: int


@dataclass(frozen=True)
class StageView:
    """Counts of one stage, as the ledger of the core counts them.

    Attributes:
        name: of the stage.
        identity: engine, checkpoint or libraries that do the work.
        eligible: candidates that the stage before hands on.
        ok, unconverged, rejected, failed: attempted candidates by status.
        again: candidates with a row that get another attempt.
        reasons: of those that are not ok, the largest group first.
        goes_on: statuses that the next stage takes; of the last one those that are ranked.
        cpu_s, gpu_s: working seconds of all attempts.
        rate: candidates per second while the stage is at work; None where it is not.
        left_s: seconds until the stage is done at that rate; None where unknown.
    """

    name: str
    identity: str
    eligible: int
    ok: int
    unconverged: int
    rejected: int
    failed: int
    again: int
    reasons: tuple[ReasonCount, ...]
    goes_on: frozenset[str]
    cpu_s: float
    gpu_s: float
    rate: float | None
    left_s: float | None

    @property
    def attempted(self) -> int:
        """Candidates with a row."""
        return self.ok + self.unconverged + self.rejected + self.failed

    @property
    def pending(self) -> int:
        """Eligible candidates without a row, and those that get another attempt."""
        return max(0, self.eligible - self.attempted) + self.again


@dataclass(frozen=True, eq=False)
class RunView:
    """One run.

    Attributes:
        id: identity, see `dashboard.discovery`.
        store: the run folder.
        status: running, finished, failed or interrupted.
        stages: counts of each stage, in order.
        tables: of each stage.
        ranked: light columns of ranked.parquet; empty where there is none.
        problems: sentences about what could not be read.
        elapsed_s: wall-clock seconds of all sessions.
    """

    id: str
    store: RunStore
    status: str
    stages: tuple[StageView, ...]
    tables: Mapping[str, StageTable]
    ranked: pd.DataFrame
    problems: tuple[str, ...]
    elapsed_s: float

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.store.folder

    @property
    def campaign(self) -> str:
        """Name of the campaign."""
        return self.store.plan.spec.campaign

    @property
    def target(self) -> str:
        """Name of the target."""
        return self.store.plan.spec.name

    @property
    def smiles(self) -> str:
        """SMILES of the target."""
        return self.store.plan.spec.smiles

    @property
    def method(self) -> str:
        """How candidates were generated."""
        return self.store.plan.spec.method

    @property
    def label(self) -> str:
        """Campaign, target and method: what a person calls it."""
        return f"{self.campaign} / {self.target} / {self.method}"

    @property
    def generator(self) -> str:
        """Method with the first digits of the hash of what it was."""
        return f"{self.method} {self.store.plan.generator.get('sha256', '')[:8]}".strip()

    @property
    def engine(self) -> str:
        """Identity of the engine whose energies are ranked."""
        return self.store.plan.engine

    @property
    def n(self) -> int:
        """Candidates of the run."""
        return self.store.plan.spec.n

    @property
    def cpu_s(self) -> float:
        """Working seconds on processors."""
        return sum(stage.cpu_s for stage in self.stages)

    @property
    def gpu_s(self) -> float:
        """Working seconds on GPUs."""
        return sum(stage.gpu_s for stage in self.stages)

    @property
    def at_work(self) -> StageView | None:
        """The stage that is at work in a run that is not finished: the first with work left."""
        return next((stage for stage in self.stages if stage.pending), None)


@dataclass(frozen=True)
class BrokenRun:
    """A run folder that cannot be read.

    Attributes:
        id: identity.
        folder: the folder.
        sentence: what is wrong.
    """

    id: str
    folder: Path
    sentence: str


def read_run(
    run_id: str, folder: Path, cache: TableCache, now: float | None = None
) -> RunView | BrokenRun:
    """Read a run folder; whatever is wrong with it becomes a sentence.

    Args:
        run_id: its identity.
        folder: holds run.json.
        cache: of stage tables.
        now: seconds since 1970; the clock when None.
    """
    try:
        return _read(run_id, folder, cache, time.time() if now is None else now)
    except (PackflowError, OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        return BrokenRun(run_id, folder, " ".join(str(error).split())[:400])


def _read(run_id: str, folder: Path, cache: TableCache, now: float) -> RunView:
    store = RunStore(folder)
    status = store.status
    tables = {name: cache.stage(store.stage(name).folder, name) for name in store.plan.stage_names}
    problems = [problem for table in tables.values() for problem in table.problems]
    ranked, problem = _read_ranked(folder / RANKED)
    problems += [problem] if problem else []
    sessions = store.content.get("sessions", [])
    written = sorted(moment for table in tables.values() for moment, _ in table.written)
    views = _stage_views(store, tables, _began(sessions) if status == "running" else None, now)
    return RunView(
        id=run_id, store=store, status=status, stages=tuple(views), tables=tables, ranked=ranked,
        problems=tuple(problems), elapsed_s=_elapsed(sessions, status, written, now),
    )  # fmt: skip


def _stage_views(
    store: RunStore, tables: Mapping[str, StageTable], began: float | None, now: float
) -> list[StageView]:
    """Counts of every stage; `began` is when the session at work began, None where none is."""
    views: list[StageView] = []
    eligible = np.arange(store.plan.spec.n)
    before: StageTable | None = None
    for name in store.plan.stage_names:
        table = tables[name]
        if before is not None:
            wanted = [str(status) for status in accepted_by(store.plan.spec, name)]
            accepted = before.frame["status"].isin(wanted).to_numpy()
            eligible = before.frame["index"].to_numpy()[accepted]
        counts = table.frame["status"].value_counts()
        attempted = len(table.frame)
        again = _again(store, name, table.frame, eligible)
        pending = max(0, len(eligible) - attempted) + again
        rate = None
        if began is not None and pending and attempted:
            rate = _rate(table, before, began, now)
        views.append(
            StageView(
                name=name,
                identity=store.plan.stages[name].identity,
                eligible=len(eligible),
                ok=int(counts.get(Status.OK.value, 0)),
                unconverged=int(counts.get(Status.UNCONVERGED.value, 0)),
                rejected=int(counts.get(Status.REJECTED.value, 0)),
                failed=int(counts.get(Status.FAILED.value, 0)),
                again=again,
                reasons=_reasons(table.frame),
                goes_on=_goes_on(store, name),
                cpu_s=table.attempts_wall_s["cpu"],
                gpu_s=table.attempts_wall_s["gpu"],
                rate=rate,
                left_s=pending / rate if rate else None,
            )
        )
        before = table
    return views


def _goes_on(store: RunStore, stage: str) -> frozenset[str]:
    """Statuses that the stage after `stage` takes; of the last one those that are ranked."""
    names = store.plan.stage_names
    following = names[min(names.index(stage) + 1, len(names) - 1)]
    return frozenset(str(status) for status in accepted_by(store.plan.spec, following))


def _again(store: RunStore, stage: str, frame: pd.DataFrame, eligible: np.ndarray[Any, Any]) -> int:
    """Candidates with a row that the run attempts once more."""
    failed = frame[(frame["status"] == Status.FAILED.value).to_numpy()]
    if not len(failed):
        return 0
    wanted = wanted_attempts(store.folder, stage, store.plan.key(stage))
    taken = np.isin(failed["index"].to_numpy(), eligible)
    count = 0
    for index, reason, attempt, is_eligible in zip(
        failed["index"], failed["reason"], failed["attempt"], taken, strict=True
    ):
        number = 0 if pd.isna(attempt) else int(attempt)
        last = Attempt(Status.FAILED, "" if pd.isna(reason) else str(reason), number)
        count += bool(is_eligible) and (not last.final or number < wanted.get(int(index), 0))
    return count


def _reasons(frame: pd.DataFrame) -> tuple[ReasonCount, ...]:
    bad = frame[(frame["status"] != Status.OK.value).to_numpy()]
    if not len(bad):
        return ()
    groups = bad.groupby(
        [bad["status"].astype(str), bad["reason"].astype(object).fillna("").astype(str)]
    ).size()
    pairs = zip(groups.index.tolist(), groups.tolist(), strict=True)
    found = [ReasonCount(str(key[0]), str(key[1]), int(count)) for key, count in pairs]
    return tuple(sorted(found, key=lambda x: (-x.count, x.status, x.reason)))


def _rate(table: StageTable, before: StageTable | None, began: float, now: float) -> float | None:
    """Candidates per second since the session at work began with this stage.

    Rows carry no times of day, their files do: a stage begins when the one before wrote its last
    file, or with the session.
    """
    start = max([began, *(m for m, _ in (before.written if before else ()) if m <= now)])
    rows = sum(count for moment, count in table.written if moment >= start)
    elapsed = now - start
    return rows / elapsed if rows and elapsed > 0 else None


def _began(sessions: Sequence[Mapping[str, Any]]) -> float | None:
    return _moment(sessions[-1].get("started")) if sessions else None


def _moment(text: Any) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def _elapsed(
    sessions: Sequence[Mapping[str, Any]], status: str, written: Sequence[float], now: float
) -> float:
    """Seconds of all sessions; one that was killed ended with the last file that it wrote."""
    total = 0.0
    for number, session in enumerate(sessions):
        start, end = _moment(session.get("started")), _moment(session.get("ended"))
        if start is None:
            continue
        if end is None:
            last = number == len(sessions) - 1
            following = None if last else _moment(sessions[number + 1].get("started"))
            if last and status == "running":
                end = now
            else:
                limit = np.inf if following is None else following
                end = max([start, *(m for m in written if m <= limit)])
        total += max(0.0, end - start)
    return total


def _read_ranked(path: Path) -> tuple[pd.DataFrame, str]:
    empty = pd.DataFrame({name: [] for name in _RANKED_COLUMNS})
    if not path.is_file():
        return empty, ""
    try:
        with pq.ParquetFile(path) as file:
            present = set(file.schema_arrow.names)
            table = file.read(columns=[name for name in _RANKED_COLUMNS if name in present])
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())[:160]
        return empty, f"{RANKED} is damaged ({why}); ranks and clusters are not shown."
    frame: pd.DataFrame = table.to_pandas()
    if "index" not in frame:
        return empty, f"{RANKED} has no column index; ranks and clusters are not shown."
    return frame, ""
