"""One candidate of a run: its way through the stages, its numbers, its structure, its trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dashboard.runs import RANKED, RunView
from dashboard.tables import candidate_rows
from packflow_core.crystal.crystal import Crystal
from packflow_core.store.rows import Row, crystal_of
from packflow_core.store.schema import stage_kind, stage_schema

#: Columns that a table of numbers leaves out: they are long, or told elsewhere.
_HIDDEN = frozenset({"numbers", "positions", "cell", "stage_key", "candidate_id", "index"})
_TOLD = _HIDDEN | {"status", "reason", "detail", "attempt", "wall_s", "device"}


@dataclass(frozen=True)
class StageAttempt:
    """One attempt of a stage at a candidate.

    Attributes:
        stage: its name.
        row: all columns.
        latest: whether it is the attempt that counts.
    """

    stage: str
    row: Row
    latest: bool


@dataclass(frozen=True)
class Candidate:
    """What the store knows about one candidate.

    Attributes:
        run: where it is from.
        index: its place in the run.
        attempts: in the order of stages and attempts.
        ranked: its line of ranked.parquet; empty where it has none.
        problems: sentences about what could not be read.
    """

    run: RunView
    index: int
    attempts: tuple[StageAttempt, ...]
    ranked: Row
    problems: tuple[str, ...]

    @property
    def id(self) -> str:
        """Its identity, or its number where no stage has a row."""
        for attempt in self.attempts:
            if attempt.row.get("candidate_id"):
                return str(attempt.row["candidate_id"])
        return f"candidate {self.index}"

    @property
    def stages(self) -> list[str]:
        """Stages that left a structure, in order."""
        return [a.stage for a in self.attempts if a.latest and _has_structure(a.row)]

    def row(self, stage: str | None = None) -> Row | None:
        """The row that counts of a stage; of the last one that there is when None."""
        found = [a.row for a in self.attempts if a.latest and stage in (None, a.stage)]
        return found[-1] if found else None

    def crystal(self, stage: str | None = None) -> tuple[Crystal | None, str, str]:
        """Its structure after a stage, or after the last one that left one.

        Returns:
            The crystal or None, the stage it is from, and a sentence where it is not as asked.
        """
        names = [stage] if stage in self.stages else self.stages[-1:]
        if not names:
            return None, "", "No stage left a structure of this candidate."
        row = self.row(names[0])
        try:
            crystal = crystal_of(row or {})
        except (ValueError, KeyError, TypeError) as error:
            return None, names[0], f"The structure cannot be shown: {error}."
        other = stage is not None and names[0] != stage
        return crystal, names[0], f"Stage {stage} left no structure." if other else ""


def read_candidate(run: RunView, index: int) -> Candidate:
    """Everything about one candidate; only files that may hold it are opened."""
    attempts: list[StageAttempt] = []
    problems: list[str] = []
    for name in run.store.plan.stage_names:
        rows, wrong = candidate_rows(run.store.stage(name).folder, name, index)
        problems += wrong
        attempts += [StageAttempt(name, row, k == len(rows) - 1) for k, row in enumerate(rows)]
    ranked = _ranked_row(run.folder / RANKED, index) if len(run.ranked) else {}
    return Candidate(run, index, tuple(attempts), ranked, tuple(problems))


def facts(candidate: Candidate) -> list[tuple[str, str, str, str]]:
    """(name, value, unit, meaning) of the columns of the last row, the ranking's included.

    What the history tells, and empty values, are left out.
    """
    last = candidate.attempts[-1] if candidate.attempts else None
    if last is None:
        return []
    schema = stage_schema(last.stage)
    if stage_kind(last.stage) == "rank":
        values = {**last.row, **{k: v for k, v in candidate.ranked.items() if v is not None}}
    else:
        values = last.row
    found = []
    for field in schema:
        value = values.get(field.name)
        if value in (None, "") or field.name in _TOLD or field.name.startswith("trace_"):
            continue
        metadata = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        unit, meaning = metadata.get("unit", ""), metadata.get("description", "")
        found.append((field.name, show(value), unit, meaning))
    return found


def show(value: Any) -> str:
    """A value as short text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(show(item) for item in value[:12]) + (" …" if len(value) > 12 else "")
    return str(value)


def traces(candidate: Candidate) -> list[tuple[str, dict[str, list[float]]]]:
    """(stage, columns) of the relaxation traces; the columns are `step`, `energy_eV`, ...

    A stage that kept no trace, or whose columns differ in length, is left out.
    """
    found = []
    for attempt in candidate.attempts:
        if not attempt.latest or stage_kind(attempt.stage) not in ("relax_h", "relax"):
            continue
        columns = {
            name.removeprefix("trace_"): list(attempt.row.get(name) or [])
            for name in stage_schema(attempt.stage).names
            if name.startswith("trace_")
        }
        steps = len(columns.get("step", []))
        columns = {name: values for name, values in columns.items() if len(values) == steps}
        if steps:
            found.append((attempt.stage, columns))
    return found


def _has_structure(row: Row) -> bool:
    return bool(row.get("numbers")) and bool(row.get("positions")) and bool(row.get("cell"))


def _ranked_row(path: Path, index: int) -> Row:
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name not in _HIDDEN]
        found = pq.read_table(path, columns=names, filters=[("index", "=", index)]).to_pylist()
    except (pa.ArrowException, OSError):
        return {}
    return dict(found[0]) if found else {}
