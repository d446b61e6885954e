"""Stage tables without their crystals, read once per file and kept while the file stays the same.

Parts never change once written, so a look at a running campaign reads what is new and nothing
else. A damaged part costs its own candidates and a sentence, never the page.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.store.journal import read_journal
from packflow_core.store.rows import Row
from packflow_core.store.schema import stage_kind, stage_schema

#: Columns that the pages need for all candidates at once: those of every stage, and by kind.
COMMON_LIGHT = ("index", "status", "reason", "attempt", "wall_s", "device")
STAGE_LIGHT = {
    "relax": ("z", "energy_eV", "density_g_cm3", "energy_start_eV"),
    "rank": ("space_group", "matches_reference", "match_rmsd_A"),
}
#: Columns of few different values; stored once each.
_REPEATED = frozenset({"status", "reason", "device", "space_group"})

#: Many small files are read best one per thread.
_THREADS = min(8, os.cpu_count() or 1)

#: What tells whether a file is still the one that was read: path, modification time, size.
Stamp = tuple[str, int, int]


@dataclass(frozen=True, eq=False)
class StageTable:
    """One row per attempted candidate of a stage, its latest attempt, by index.

    Attributes:
        frame: the light columns; `status`, `reason`, `device` and `space_group` as categories.
        problems: sentences about files that could not be read.
        attempts_wall_s: working seconds of all attempts, by the kind of device ("cpu", "gpu").
        written: (modification time in s since 1970, rows) of each file, by time.
    """

    frame: pd.DataFrame
    problems: tuple[str, ...]
    attempts_wall_s: dict[str, float]
    written: tuple[tuple[float, int], ...]


class TableCache:
    """Reads stage tables; keeps files and tables while their stamps stay the same."""

    def __init__(self) -> None:
        self._files: dict[Stamp, tuple[pa.Table | None, str]] = {}
        self._tables: dict[Path, tuple[tuple[Stamp, ...], StageTable]] = {}
        self._lock = threading.Lock()

    def stage(self, folder: Path, stage: str) -> StageTable:
        """Table of a stage folder; empty where there is none."""
        stamps = tuple(stage_files(folder))
        with self._lock:
            known = self._tables.get(folder)
            if known is not None and known[0] == stamps:
                return known[1]
            table = self._assemble(stage, stamps)
            previous = set(known[0]) if known is not None else set()
            for stamp in previous.difference(stamps):
                self._files.pop(stamp, None)
            self._tables[folder] = (stamps, table)
            return table

    def _assemble(self, stage: str, stamps: Sequence[Stamp]) -> StageTable:
        schema = _light_schema(stage)
        pieces, problems, written = [], [], []
        new = [stamp for stamp in stamps if stamp not in self._files]
        read = partial(_read, schema=schema)
        with ThreadPoolExecutor(_THREADS) as threads:
            self._files.update(zip(new, threads.map(read, (Path(s[0]) for s in new)), strict=True))
        for stamp in stamps:
            table, problem = self._files[stamp]
            if problem:
                problems.append(problem)
            if table is not None and len(table):
                pieces.append(table)
                written.append((stamp[1] / 1e9, len(table)))
        whole = pa.concat_tables(pieces) if pieces else schema.empty_table()
        whole = whole.unify_dictionaries()
        frame: pd.DataFrame = whole.to_pandas()
        wall = frame["wall_s"].fillna(0.0).to_numpy(dtype=np.float64)
        on_gpu = _on_gpu(frame["device"])
        spent = {"cpu": float(wall[~on_gpu].sum()), "gpu": float(wall[on_gpu].sum())}
        order = _latest(frame["index"].to_numpy(), frame["attempt"].fillna(0).to_numpy())
        frame = frame.iloc[order].reset_index(drop=True)
        return StageTable(frame, tuple(problems), spent, tuple(sorted(written)))


def stage_files(folder: Path) -> list[Stamp]:
    """Journals, then parts, of a stage folder, each with what tells whether it changed."""
    found: list[Stamp] = []
    for pattern in ("journal-*.journal", "part-*.parquet"):
        for path in sorted(folder.glob(pattern)):
            try:
                facts = path.stat()
            except OSError:
                continue  # folded into a part meanwhile
            found.append((str(path), facts.st_mtime_ns, facts.st_size))
    return found


def candidate_rows(folder: Path, stage: str, index: int) -> tuple[list[Row], list[str]]:
    """All attempts of one candidate in a stage with all columns, the earliest first.

    Returns:
        The rows, and sentences about files that could not be read.
    """
    rows: dict[int, Row] = {}
    problems: list[str] = []
    names = set(stage_schema(stage).names)
    for name, _, _ in stage_files(folder):
        path = Path(name)
        if not _may_hold(path, index):
            continue
        try:
            found = _rows_of(path, index)
        except (pa.ArrowException, OSError, ValueError) as error:
            problems.append(_damaged(path, error))
            continue
        for row in found:
            rows[int(row.get("attempt") or 0)] = {k: v for k, v in row.items() if k in names}
    return [rows[attempt] for attempt in sorted(rows)], problems


def _rows_of(path: Path, index: int) -> list[Row]:
    if path.suffix == ".parquet":
        rows: list[Row] = pq.read_table(path, filters=[("index", "=", index)]).to_pylist()
        return rows
    try:
        batches = read_journal(path)
    except FileNotFoundError:
        return []
    return [row for batch in batches for row in batch.to_pylist() if row.get("index") == index]


def _may_hold(path: Path, index: int) -> bool:
    if path.suffix != ".parquet":
        return True
    try:
        first, last = (int(text) for text in path.stem.split("-")[1:3])
    except ValueError:
        return True
    return first <= index <= last


def _light_schema(stage: str) -> pa.Schema:
    full = stage_schema(stage)
    more = STAGE_LIGHT.get(stage_kind(stage), ())
    names = [name for name in (*COMMON_LIGHT, *more) if name in full.names]
    return pa.schema(
        [
            pa.field(
                name,
                pa.dictionary(pa.int32(), pa.string())
                if name in _REPEATED
                else full.field(name).type,
            )
            for name in names
        ]
    )


def _read(path: Path, schema: pa.Schema) -> tuple[pa.Table | None, str]:
    """The light columns of a file, or a sentence that says why not."""
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                present = set(file.schema_arrow.names)
                names = [name for name in schema.names if name in present]
                table = file.read(columns=names, use_threads=False)
        else:
            batches = read_journal(path)
            if not batches:
                return None, ""
            table = pa.Table.from_batches(batches)
        return _conform(table, schema), ""
    except FileNotFoundError:
        return None, ""
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        return None, _damaged(path, error)


def _damaged(path: Path, error: Exception) -> str:
    why = " ".join(str(error).split())[:160]
    return f"{path.parent.name}/{path.name} is damaged ({why}); its candidates are not shown."


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`; a column it lacks becomes null."""

    def column(field: pa.Field) -> Any:
        if field.name not in table.column_names:
            return pa.nulls(len(table), field.type)
        values = table.column(field.name)
        if pa.types.is_dictionary(field.type):
            return values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        return values.cast(field.type)

    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


def _on_gpu(device: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each row was computed on a GPU."""
    codes = device.cat.codes.to_numpy()
    kinds = np.array(
        [not str(name or "cpu").startswith("cpu") for name in device.cat.categories] + [False],
        dtype=np.bool_,
    )
    result: np.ndarray[Any, np.dtype[np.bool_]] = kinds[codes]
    return result


def _latest(index: np.ndarray[Any, Any], attempt: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Row numbers of the latest attempt of every candidate, ordered by index."""
    order = np.lexsort((attempt, index))
    last = np.ones(len(order), dtype=np.bool_)
    last[:-1] = index[order][1:] != index[order][:-1]
    return order[last]


def words(folder: Path, stage: str, indices: Sequence[int]) -> dict[int, Row]:
    """`candidate_id` and `detail` of the latest attempts of some candidates, by index.

    Files that cannot be read say nothing.
    """
    wanted = set(indices)
    found: dict[int, Row] = {}
    for name, _, _ in stage_files(folder):
        path = Path(name)
        if not any(_may_hold(path, index) for index in wanted):
            continue
        for row in _word_rows(path, wanted):
            known = found.get(row["index"], {})
            if int(row.get("attempt") or 0) >= int(known.get("attempt") or 0):
                found[row["index"]] = row
    return found


def _word_rows(path: Path, wanted: set[int]) -> list[Row]:
    names = ["index", "attempt", "candidate_id", "detail"]
    try:
        if path.suffix == ".parquet":
            keep = [("index", "in", wanted)]
            rows: list[Row] = pq.read_table(path, columns=names, filters=keep).to_pylist()
            return rows
        rows = [row for batch in read_journal(path) for row in batch.select(names).to_pylist()]
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return []
    return [row for row in rows if row["index"] in wanted]
