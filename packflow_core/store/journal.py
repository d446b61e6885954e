"""The journal: rows of an unfinished chunk, appended one by one, safe against kill -9.

A frame is a header (magic, length, CRC-32) and a payload. The first payload is the Arrow schema,
each further one an Arrow record batch, both in Arrow's IPC encapsulation. A frame that a killed
process left torn fails its length or checksum and ends the journal there; everything before it
is whole.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from packflow_core.store.rows import Row

_HEADER = struct.Struct("<4sII")
_MAGIC = b"PFJ1"

#: Rows reach the kernel at once (so kill -9 loses none); the disk at least this often, in s.
_SYNC_EVERY_S = 1.0


def rows_to_batch(rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    """Record batch of rows.

    Raises:
        ValueError: a row has a column that the schema does not name, or a value of wrong type.
    """
    known = set(schema.names)
    unknown = sorted({name for row in rows for name in row} - known)
    if unknown:
        raise ValueError(f"columns {', '.join(unknown)} are not in the schema of the stage")
    try:
        return pa.RecordBatch.from_pylist(list(rows), schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"a value does not fit its column: {error}") from error


class JournalWriter:
    """Appends rows to a new journal file.

    Args:
        path: the file; must not exist.
        schema: the stage's schema.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._schema = schema
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._end = 0
        self._broken = False
        self._synced = time.monotonic()
        self._write(schema.serialize().to_pybytes())

    def append(self, rows: Sequence[Row]) -> None:
        """Append rows; when this returns, a kill of the process cannot lose them.

        Raises:
            ValueError: a row does not fit the schema; nothing was written.
            OSError: the disk refused; the journal ends at the last whole frame.
        """
        self._write(rows_to_batch(rows, self._schema).serialize().to_pybytes())
        now = time.monotonic()
        if now - self._synced >= _SYNC_EVERY_S:
            os.fsync(self._fd)
            self._synced = now

    def close(self) -> None:
        """Sync and close."""
        if self._fd >= 0:
            try:
                os.fsync(self._fd)
            finally:
                os.close(self._fd)
                self._fd = -1

    def _write(self, payload: bytes) -> None:
        if self._broken:
            raise OSError(f"journal {self.path} ended with a failed write")
        frame = memoryview(_HEADER.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload)
        total = len(frame)
        try:
            while frame:
                frame = frame[os.write(self._fd, frame) :]
        except OSError:
            # A frame behind a torn one would never be read: stop here, at a whole frame.
            self._broken = True
            os.ftruncate(self._fd, self._end)
            raise
        self._end += total

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_journal(path: Path) -> list[pa.RecordBatch]:
    """All whole record batches of a journal; a torn tail is ignored.

    Raises:
        FileNotFoundError: the journal was folded meanwhile.
    """
    frames = _frames(path.read_bytes())
    first = next(frames, None)
    if first is None:
        return []
    schema = pa.ipc.read_schema(pa.py_buffer(first))
    return [pa.ipc.read_record_batch(pa.py_buffer(frame), schema) for frame in frames]


def _frames(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        magic, length, crc = _HEADER.unpack_from(data, offset)
        payload = data[offset + _HEADER.size : offset + _HEADER.size + length]
        if magic != _MAGIC or len(payload) != length or zlib.crc32(payload) != crc:
            return
        yield payload
        offset += _HEADER.size + length
