"""The state of an unfinished relaxation: everything that its next steps depend on.

ASE's own restart files keep velocities and time step only, and go another way afterwards. With
what is kept here a relaxation that is continued in another process ends at the same bits, as long
as its engine gives the same bits.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from packflow_core.relax.fire import A_START, DT_START
from packflow_core.relax.outcome import Step, Trace
from packflow_core.store.atomic import TEMPORARY_PREFIX

FloatArray = NDArray[np.float64]


@dataclass(eq=False)
class RelaxState:
    """One crystal between two steps.

    Attributes:
        origin: [N, 3] Å, the positions at which engine and cell filter were set up.
        origin_cell: [3, 3] Å, the cell there.
        q: [N, 3] Å, atoms in the undeformed cell; where the next evaluation takes place.
        u: [3, 3] scaled logarithm of the deformation.
        v, v_cell: [N, 3] and [3, 3] velocities.
        dt, a, n_downhill, fresh: step control, see `fire.Fire`.
        sound, sound_cell: geometry of the last evaluation, [N, 3] and [3, 3] Å.
        n_steps: optimiser steps so far.
        continuations: times that the engine was set up anew.
        first, last: first and last evaluation.
        trace: steps kept.
        elapsed_s: working time so far.
    """

    origin: FloatArray
    origin_cell: FloatArray
    q: FloatArray
    u: FloatArray
    v: FloatArray
    v_cell: FloatArray
    sound: FloatArray
    sound_cell: FloatArray
    dt: float = DT_START
    a: float = A_START
    n_downhill: int = 0
    fresh: bool = True
    n_steps: int = 0
    continuations: int = 0
    first: Step | None = None
    last: Step | None = None
    trace: Trace = field(default_factory=Trace)
    elapsed_s: float = 0.0

    @classmethod
    def start(cls, positions: FloatArray, cell: FloatArray) -> RelaxState:
        """State before the first evaluation, at positions [N, 3] Å in a cell [3, 3] Å."""
        return cls(
            origin=positions.copy(), origin_cell=cell.copy(),
            q=positions.copy(), u=np.zeros((3, 3)),
            v=np.zeros_like(positions), v_cell=np.zeros((3, 3)),
            sound=positions.copy(), sound_cell=cell.copy(),
        )  # fmt: skip

    def begin_anew(self) -> None:
        """Set up again at the last sound geometry, as a fresh optimiser would."""
        again = RelaxState.start(self.sound, self.sound_cell)
        for name in (*_ARRAYS, "dt", "a", "n_downhill", "fresh"):
            setattr(self, name, getattr(again, name))


_ARRAYS = ("origin", "origin_cell", "q", "u", "v", "v_cell", "sound", "sound_cell")
_FL = pa.list_(pa.float64())
_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64()),
        *(pa.field(name, _FL) for name in _ARRAYS),
        pa.field("control", _FL),
        pa.field("first", _FL),
        pa.field("last", _FL),
        pa.field("trace", _FL),
    ]
)
_HEADER = struct.Struct("<4sQI")
_MAGIC = b"PFS1"
SUFFIX = ".states"


def pack(state: RelaxState, index: int) -> dict[str, Any]:
    """State as a row of plain lists."""
    steps = [x for step in state.trace.steps for x in step]
    return {
        "index": index,
        **{name: getattr(state, name).reshape(-1) for name in _ARRAYS},
        "control": [
            state.dt, state.a, state.n_downhill, state.fresh, state.n_steps, state.continuations,
            state.elapsed_s, state.trace.stride,
        ],
        "first": None if state.first is None else list(state.first),
        "last": None if state.last is None else list(state.last),
        "trace": steps,
    }  # fmt: skip


def unpack(row: dict[str, Any]) -> RelaxState:
    """State of a row of `pack`.

    Raises:
        ValueError: not such a row.
    """
    try:
        arrays = {n: np.array(row[n], dtype=np.float64).reshape(-1, 3) for n in _ARRAYS}
        dt, a, downhill, fresh, n_steps, continuations, elapsed, stride = row["control"]
        trace = Trace([_step(x) for x in np.reshape(row["trace"], (-1, 5)).tolist()], int(stride))
        return RelaxState(
            **arrays, dt=dt, a=a, n_downhill=int(downhill), fresh=bool(fresh),
            n_steps=int(n_steps), continuations=int(continuations), elapsed_s=elapsed,
            first=_step(row["first"]), last=_step(row["last"]), trace=trace,
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a relaxation state: {error}") from error


def _step(values: list[float] | None) -> Any:
    return None if values is None else Step(int(values[0]), *values[1:])


def write_states(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write packed states, replacing the file as a whole.

    Not synced to disk: after a power cut a torn file fails its checksum and its candidates start
    again, with the same result.

    Raises:
        OSError: the disk refused.
    """
    batch = pa.RecordBatch.from_pylist(list(rows), schema=_SCHEMA)
    payload = _SCHEMA.serialize().to_pybytes()
    content = batch.serialize().to_pybytes()
    data = struct.pack("<Q", len(payload)) + payload + content
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")
    try:
        temporary.write_bytes(_HEADER.pack(_MAGIC, len(data), zlib.crc32(data)) + data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_states(folder: Path) -> dict[int, dict[str, Any]]:
    """Packed states in all files of a folder by candidate index; the farthest of each counts.

    Damaged files are passed over: what they held is computed again.
    """
    found: dict[int, dict[str, Any]] = {}
    for path in state_files(folder):
        for row in read_file(path):
            known = found.get(row["index"])
            if known is None or row["control"][4] >= known["control"][4]:
                found[row["index"]] = row
    return found


def state_files(folder: Path) -> list[Path]:
    """Files of states in a folder, which need not exist."""
    return [p for p in sorted(folder.glob(f"*{SUFFIX}")) if not p.name.startswith(TEMPORARY_PREFIX)]


def read_file(path: Path) -> list[dict[str, Any]]:
    """Packed states of one file; none where it is damaged or gone."""
    try:
        content = path.read_bytes()
        magic, length, crc = _HEADER.unpack_from(content)
        data = content[_HEADER.size :]
        if magic != _MAGIC or len(data) != length or zlib.crc32(data) != crc:
            return []
        (size,) = struct.unpack_from("<Q", data)
        schema = pa.ipc.read_schema(pa.py_buffer(data[8 : 8 + size]))
        batch = pa.ipc.read_record_batch(pa.py_buffer(data[8 + size :]), schema)
        rows: list[dict[str, Any]] = batch.to_pylist()
        return [row for row in rows if set(row) == set(_SCHEMA.names)]
    except (OSError, struct.error, pa.ArrowException):
        return []
