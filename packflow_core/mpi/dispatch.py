"""What the ranks of a job share: a folder with the work, who took what, and how far each one is.

MPI starts the ranks and numbers them, and that is all: no message goes through it. A rank takes a
block of candidates by making a file that must not exist yet, in a folder that all ranks see, as
they see the run's. So no rank depends on another one, and any of them may die.

(Measured with MPICH 5.0 and two ranks, rank 0 busy computing: such a file takes 9 µs, a counter in
shared memory of MPI 40 µs, a thread of rank 0 that answers 4 ms. Over a network the counter waits
until the rank that owns it comes up for air, 480 ms where its candidates take 500, and with that or
with the thread the death of rank 0 left the other waiting for ever.)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packflow_core.store.atomic import write_bytes

#: The job, for `main.py`, which reads it before it can import this module.
WORK = "work.json"
#: There when the ranks are to end.
STOP = "stop"
#: A number that grows as long as the process that started the ranks lives.
ALIVE = "alive"
#: What the ranks print.
OUTPUT_SUFFIX = ".out"

_CLAIMS = "claims"
_LOG_SUFFIX = ".jsonl"

#: Ends of a rank: nothing was left to take; it was told to end; it met an error; it took too long.
DONE, TOLD, ERROR, LATE = "done", "told", "error", "late"

#: Work: pairs (candidate index, number of this attempt).
Pair = tuple[int, int]


@dataclass(frozen=True)
class Job:
    """What ranks are to do.

    Attributes:
        run_folder: the run, an absolute path.
        stage: name of the stage.
        label: begins the names of this job's journals.
        ranks: how many there are.
        blocks: candidates that are made together.
        function: "module:function", called with the run's `RunStore` and a block, for its rows.
        timeout_s: time limit of a block of first attempts, s; doubles with each attempt.
    """

    run_folder: Path
    stage: str
    label: str
    ranks: int
    blocks: list[list[Pair]]
    function: str
    timeout_s: float

    def write(self, folder: Path, environment: dict[str, str], path: list[str]) -> None:
        """Make the folder ready for the ranks.

        Args:
            folder: exists; all ranks see it.
            environment: variables for the ranks.
            path: where they find modules, Python's `sys.path`.
        """
        (folder / _CLAIMS).mkdir()
        content = {
            "run_folder": str(self.run_folder),
            "stage": self.stage,
            "label": self.label,
            "ranks": self.ranks,
            "blocks": self.blocks,
            "function": self.function,
            "timeout_s": self.timeout_s,
            "environment": environment,
            "path": path,
        }
        write_bytes(folder / WORK, json.dumps(content).encode())

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job that was written to a folder."""
        content = json.loads((folder / WORK).read_bytes())
        return cls(
            Path(content["run_folder"]),
            content["stage"],
            content["label"],
            content["ranks"],
            [[(index, attempt) for index, attempt in block] for block in content["blocks"]],
            content["function"],
            content["timeout_s"],
        )


def cut(work: Sequence[Pair], size: int) -> list[list[Pair]]:
    """Blocks of the work; their limits do not depend on what else is left to do.

    Further attempts come last and alone, so that a candidate that kills its rank again takes no
    other with it.

    Args:
        work: pairs by index.
        size: consecutive candidates that are made together.
    """
    blocks: dict[int, list[Pair]] = {}
    for index, attempt in work:
        if attempt == 1:
            blocks.setdefault(index // size, []).append((index, attempt))
    return [*blocks.values(), *([pair] for pair in work if pair[1] > 1)]


class Claims:
    """Blocks that were taken, one file for each, with the name of the rank in it.

    The blocks are taken in their order, so that those which are taken are always the first ones.

    Args:
        folder: of the job.
        count: of blocks.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder / _CLAIMS
        self._count = count
        self._next = 0

    def take(self, owner: str) -> int | None:
        """Number of a block that nobody else takes; None when nothing is left."""
        while self._next < self._count:
            number = self._next
            self._next += 1
            try:
                # atomic on network file systems, too (NFS since version 3)
                fd = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            try:
                os.write(fd, owner.encode())
            finally:
                os.close(fd)
            return number
        return None

    def taken(self) -> int:
        """How many blocks were taken: the first ones."""
        return len(os.listdir(self._folder))

    def owner(self, number: int) -> str | None:
        """Who took a block: None for nobody, "" for a rank that died before it could sign."""
        try:
            return self._path(number).read_text()
        except FileNotFoundError:
            return None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:07d}"


class RankLog:
    """What a rank says of itself, line by line.

    Args:
        folder: of the job.
        name: of the rank, see `rank_name`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = os.open(folder / f"{name}{_LOG_SUFFIX}", flags, 0o644)

    def write(self, **values: Any) -> None:
        """Append a line, in one piece."""
        os.write(self._fd, json.dumps(values).encode() + b"\n")

    def end(self, how: str, text: str = "", exit_code: int | None = None) -> None:
        """The last line.

        Args:
            how: DONE, TOLD, ERROR or LATE.
            text: of the error, or how long it took.
            exit_code: of a `PackflowError`, which all ranks would meet.
        """
        self.write(end=how, text=text, exit_code=exit_code)


@dataclass
class RankSeen:
    """What is known of a rank from its log.

    Attributes:
        name: of the rank.
        rank, size: its number and the number of all, as MPI told.
        pid, host: its process.
        library: the MPI library that it has loaded.
        end: DONE, TOLD, ERROR or LATE; "" while it works, and where it died.
        text, exit_code: as in `RankLog.end`.
    """

    name: str
    rank: int = -1
    size: int = 0
    pid: int = 0
    host: str = ""
    library: str = ""
    end: str = ""
    text: str = ""
    exit_code: int | None = None

    def __str__(self) -> str:
        return f"MPI rank {self.rank} (process {self.pid} on {self.host})"


@dataclass
class LogReader:
    """Reads the logs of a job's ranks as they grow.

    Attributes:
        folder: of the job.
        seen: the ranks that have said something, by name.
    """

    folder: Path
    seen: dict[str, RankSeen] = field(default_factory=dict)
    _read: dict[str, int] = field(default_factory=dict)

    def news(self) -> Iterator[dict[str, int]]:
        """Update `seen`; rows by status of each block that was finished since the last call."""
        for path in sorted(self.folder.glob(f"*{_LOG_SUFFIX}")):
            name = path.stem
            known = self.seen.setdefault(name, RankSeen(name))
            for line in self._lines(path):
                content = json.loads(line)
                if "counts" in content:
                    yield content["counts"]
                    continue
                for key, value in content.items():
                    setattr(known, key, value)

    def _lines(self, path: Path) -> list[bytes]:
        """Whole lines that are new."""
        begin = self._read.get(path.stem, 0)
        with open(path, "rb") as file:
            file.seek(begin)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path.stem] = begin + len(whole)
        return whole.splitlines()


def rank_name(rank: int, host: str, pid: int) -> str:
    """Name of a rank in the folder of its job; unlike its number, no other process has it."""
    return f"rank-{rank:05d}-{re.sub(r'[^A-Za-z0-9.-]', '_', host)}-{pid}"
