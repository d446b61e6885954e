"""The table of one stage: Parquet parts, journals of unfinished chunks, and what they say.

Folder `<stage>-<key8>` holds `part-*.parquet`, whole and never changed, and `journal-*`, the rows
of chunks still at work. What is in either is done. A candidate may appear more than once (a
second attempt, or a journal folded into a part by a process that died before removing it): the
latest attempt counts, once.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.errors import RunFailedError
from packflow_core.store.atomic import (
    atomic_path,
    make_folder,
    remove_temporaries,
    storage_errors,
)
from packflow_core.store.journal import JournalWriter, read_journal, rows_to_batch
from packflow_core.store.rows import Row
from packflow_core.store.schema import stage_schema

_JOURNAL_SUFFIX = ".journal"


class StageJournal:
    """The open journal of one chunk; a context manager that folds itself into a part."""

    def __init__(self, store: StageStore, writer: JournalWriter) -> None:
        self._store = store
        self._writer = writer

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self._store.stage

    def append(self, row: Row) -> None:
        """Record a finished candidate.

        Raises:
            ValueError: the row does not fit the stage's schema; nothing was recorded.
            StorageFullError: no space left.
        """
        with storage_errors(self._store.run_folder):
            self._writer.append([row])

    def __enter__(self) -> StageJournal:
        return self

    def __exit__(self, *exc: object) -> None:
        with storage_errors(self._store.run_folder):
            self._writer.close()
            self._store.fold(self._writer.path)


class StageStore:
    """Rows of one stage of one run.

    Args:
        run_folder: the run's folder.
        stage: name of the stage.
        key: full stage key (hex); its first 8 characters name the folder.
    """

    def __init__(self, run_folder: Path, stage: str, key: str) -> None:
        self.run_folder = run_folder
        self.stage = stage
        self.key = key
        self.schema = stage_schema(stage)
        self.folder = run_folder / f"{stage}-{key[:8]}"

    # -- writing -----------------------------------------------------------------------------
    def prepare(self) -> None:
        """Make the folder and fold what a killed run left; call it with the run's lock held.

        Safe to repeat, and safe to be killed in: a journal is removed only after its part is on
        disk, and folding it twice writes the same part again.
        """
        make_folder(self.folder)
        with storage_errors(self.run_folder):
            remove_temporaries(self.folder)
            for path in self._journals():
                self.fold(path)

    def open_journal(self, label: str) -> StageJournal:
        """A new journal for the chunk `label`; use it in a with statement."""
        name = f"journal-{label}-{os.getpid()}-{secrets.token_hex(4)}{_JOURNAL_SUFFIX}"
        with storage_errors(self.run_folder):
            return StageJournal(self, JournalWriter(self.folder / name, self.schema))

    def write_part(self, rows: Sequence[Row]) -> Path | None:
        """Write rows as one part, all or nothing.

        Raises:
            ValueError: a row does not fit the stage's schema.
            StorageFullError: no space left.
        """
        if not rows:
            return None
        table = pa.Table.from_batches([rows_to_batch(rows, self.schema)])
        with storage_errors(self.run_folder):
            return self._write_table(table, secrets.token_hex(4))

    def fold(self, journal: Path) -> None:
        """Turn a closed journal into a part and remove it; nothing when somebody else did."""
        batches = _read_live(journal)
        if batches:
            table = _conform(pa.Table.from_batches(batches), self.schema)
            # The part is named after the journal, so folding twice overwrites, never doubles.
            self._write_table(table, journal.stem.rsplit("-", 1)[-1])
        journal.unlink(missing_ok=True)

    def _write_table(self, table: pa.Table, uid: str) -> Path:
        index = table.column("index").to_numpy()
        path = self.folder / f"part-{index.min():08d}-{index.max():08d}-{uid}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return path

    # -- reading -----------------------------------------------------------------------------
    def table(
        self, columns: Sequence[str] | None = None, indices: Iterable[int] | None = None
    ) -> pa.Table:
        """Latest row of every attempted candidate, ordered by `index`.

        Args:
            columns: columns wanted; all when None.
            indices: candidates wanted; all when None.

        Raises:
            RunFailedError: a part is damaged.
        """
        wanted = None if indices is None else np.unique(np.fromiter(indices, dtype=np.int64))
        names = list(self.schema.names if columns is None else columns)
        # Columns that decide which row counts are read too, and dropped at the end.
        read = list(dict.fromkeys([*names, "index", "attempt"]))
        schema = pa.schema([self.schema.field(name) for name in read])
        # Journals first: one that is folded meanwhile is then found among the parts.
        pieces = [piece for path in self._journals() for piece in _read_live(path)]
        tables = [_conform(pa.Table.from_batches([piece]), schema) for piece in pieces]
        for path in self._parts():
            if wanted is not None and not _may_hold(path, wanted):
                continue
            tables.append(_conform(self._read_part(path, read), schema))
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        return table.take(_latest(table, wanted)).select(names)

    def rows(self, indices: Iterable[int] | None = None) -> list[Row]:
        """Latest rows as dictionaries, ordered by `index`."""
        rows: list[Row] = self.table(indices=indices).to_pylist()
        return rows

    def _read_part(self, path: Path, columns: list[str]) -> pa.Table:
        try:
            file = pq.ParquetFile(path)
            present = set(file.schema_arrow.names)
            return file.read(columns=[name for name in columns if name in present])
        except (pa.ArrowException, OSError) as error:
            raise RunFailedError(
                f"The part {path} is damaged; remove it and continue with "
                f"'csp resume {self.run_folder}', which computes its candidates again."
            ) from error

    def _journals(self) -> list[Path]:
        return sorted(self.folder.glob(f"journal-*{_JOURNAL_SUFFIX}"))

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))


def _read_live(path: Path) -> list[pa.RecordBatch]:
    try:
        return read_journal(path)
    except FileNotFoundError:
        return []


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`; a column it lacks becomes null."""
    make: Callable[[pa.Field], Any] = lambda f: (  # noqa: E731
        table.column(f.name).cast(f.type)
        if f.name in table.column_names
        else pa.nulls(len(table), f.type)
    )
    return pa.Table.from_arrays([make(field) for field in schema], schema=schema)


def _may_hold(part: Path, wanted: np.ndarray[Any, Any]) -> bool:
    """Whether a part's name says that it may hold one of the wanted (sorted) indices."""
    try:
        first, last = (int(text) for text in part.stem.split("-")[1:3])
    except ValueError:
        return True
    return bool(np.searchsorted(wanted, first) < np.searchsorted(wanted, last, side="right"))


def _latest(table: pa.Table, wanted: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """Row numbers of the latest attempt of every candidate, ordered by index."""
    index = table.column("index").to_numpy()
    attempt = table.column("attempt").fill_null(0).to_numpy()
    order = np.lexsort((attempt, index))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = index[order][1:] != index[order][:-1]
    order = order[last]
    return order if wanted is None else order[np.isin(index[order], wanted)]
