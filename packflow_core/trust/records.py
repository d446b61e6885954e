"""Results of single computations, kept by key: what is finished is never computed again.

One folder holds `records.parquet` and the journals of unfinished commands. A key names everything
that a result depends on, so records of other geometries, engines or settings do no harm.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.store.atomic import (
    atomic_path,
    make_folder,
    remove_temporaries,
    storage_errors,
)
from packflow_core.store.journal import JournalWriter, read_journal

FloatArray = NDArray[np.float64]

_FILE = "records.parquet"
_SUFFIX = ".journal"
_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), metadata={"description": "hash of all it depends on"}),
        pa.field("facts", pa.string(), metadata={"description": "the result, as JSON"}),
        pa.field("array", pa.large_list(pa.float64()), metadata={"description": "numbers, flat"}),
    ]
)


@dataclass(frozen=True)
class Record:
    """One result.

    Attributes:
        facts: plain values.
        array: [n] numbers, empty where there are none.
    """

    facts: dict[str, Any]
    array: FloatArray


class Records:
    """The results in a folder; a context manager for those who add some.

    Args:
        folder: where; made when the first result is added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: JournalWriter | None = None
        self._found = {key: record for path in self._files() for key, record in _read(path)}

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def get(self, key: str) -> Record | None:
        """The result of a key; None where it was not computed yet."""
        return self._found.get(key)

    def add(self, key: str, facts: dict[str, Any], array: FloatArray | None = None) -> Record:
        """Keep a result; when this returns, a kill of the process cannot lose it.

        Raises:
            StorageFullError: no space left.
            UserInputError: the folder cannot be written.
        """
        numbers = np.zeros(0) if array is None else np.asarray(array, dtype=np.float64).reshape(-1)
        row = {"key": key, "facts": json.dumps(facts, allow_nan=False), "array": numbers.tolist()}
        if self._writer is None:
            make_folder(self._folder)
            name = f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
            with storage_errors(self._folder):
                self._writer = JournalWriter(self._folder / name, _SCHEMA)
        with storage_errors(self._folder):
            self._writer.append([row])
        self._found[key] = Record(facts, numbers)
        return self._found[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Fold all journals into the table; the lock of the run must be held."""
        if self._writer is not None:
            with storage_errors(self._folder):
                self._writer.close()
                self._fold()
            self._writer = None

    def _fold(self) -> None:
        remove_temporaries(self._folder)
        journals = sorted(self._folder.glob(f"*{_SUFFIX}"))
        records = list(self._found.values())
        ends = np.cumsum([0, *(len(record.array) for record in records)])
        # Forces are many: they stay arrays, and never become lists of Python's numbers.
        numbers = np.concatenate([record.array for record in records])
        columns = [
            pa.array(list(self._found), pa.string()),
            pa.array([json.dumps(record.facts) for record in records], pa.string()),
            pa.LargeListArray.from_arrays(ends, numbers).cast(_SCHEMA.field("array").type),
        ]
        table = pa.Table.from_arrays(columns, schema=_SCHEMA)
        with atomic_path(self._folder / _FILE) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        for path in journals:
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        table = self._folder / _FILE
        return [*([table] if table.is_file() else []), *sorted(self._folder.glob(f"*{_SUFFIX}"))]


def key_of(crystal: Crystal, *facts: Any) -> str:
    """Hash of a crystal, to the last bit, and of plain facts."""
    content = hashlib.sha256(json.dumps([crystal.z, *facts], sort_keys=True).encode())
    for array, kind in (
        (crystal.numbers, "<i8"),
        (crystal.positions, "<f8"),
        (crystal.cell, "<f8"),
    ):
        content.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return content.hexdigest()


def _read(path: Path) -> list[tuple[str, Record]]:
    """Whole records of a file; a damaged table is computed again."""
    try:
        batches = read_journal(path) if path.suffix == _SUFFIX else pq.read_table(path).to_batches()
    except (pa.ArrowException, OSError):
        return []
    found = []
    for batch in batches:
        arrays = batch.column("array")
        ends, numbers = arrays.offsets.to_numpy(), arrays.values.to_numpy()
        for k, (key, facts) in enumerate(
            zip(batch.column("key").to_pylist(), batch.column("facts").to_pylist(), strict=True)
        ):
            own = np.array(numbers[ends[k] : ends[k + 1]], dtype=np.float64)
            found.append((key, Record(json.loads(facts), own)))
    return found
