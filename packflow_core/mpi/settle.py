"""After the ranks of a start have ended: what is recorded, and what was lost with which rank."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packflow_core.errors import RunFailedError
from packflow_core.mpi.dispatch import DONE, LATE, TOLD, Claims, Job, Pair, RankSeen
from packflow_core.stages.generators import completed, unmade
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import storage_errors
from packflow_core.store.rows import Row
from packflow_core.store.schema import Reason

#: hydra, asked for all exit codes: a line per host, with the wait status of each of its ranks.
_EXIT_CODES = re.compile(r"\[([^\]\s]+)\] (\d+(?:,\d+)*)\s*$", re.MULTILINE)
_EXIT_CODES_HEAD = "Exit codes:"
#: Characters of another launcher's words about the death of a rank.
_QUOTED = 120


@dataclass
class Settlement:
    """What a start of the launcher came to.

    Attributes:
        counts: recorded rows by status.
        lost: candidates that died with a rank, or that it took too long for, by its name ("" where
            it left none).
        taken: blocks that somebody took.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lost: dict[str, list[Pair]] = field(default_factory=dict)
    taken: int = 0


def fold(run: RunStore, job: Job) -> None:
    """Make parts of the journals that the ranks of a job left."""
    store = run.stage(job.stage)
    with storage_errors(run.folder):
        for path in sorted(store.folder.glob(f"journal-{job.label}-*")):
            store.fold(path)


def unrecorded(run: RunStore, stage: str, work: Sequence[Pair]) -> list[Pair]:
    """The part of the work whose attempt has no row yet."""
    done = run.attempts(stage, [index for index, _ in work])
    return [(i, a) for i, a in work if i not in done or done[i].attempt < a]


def settle(run: RunStore, job: Job, folder: Path, seen: dict[str, RankSeen]) -> Settlement:
    """Sort the work of a job whose ranks have ended and whose journals are folded.

    Args:
        run: its run.
        job: what the ranks were to do.
        folder: of the job.
        seen: the ranks, by name.

    Raises:
        RunFailedError: a rank ended well without rows for what it had taken.
    """
    done = run.attempts(job.stage, [index for block in job.blocks for index, _ in block])
    claims = Claims(folder, len(job.blocks))
    result = Settlement(taken=claims.taken())
    for number, block in enumerate(job.blocks[: result.taken]):
        missing = []
        for index, attempt in block:
            if index in done and done[index].attempt >= attempt:
                result.counts[done[index].status] += 1
            else:
                missing.append((index, attempt))
        if not missing:
            continue
        owner = claims.owner(number) or ""
        end = seen.get(owner, RankSeen(owner)).end
        if end == DONE:
            raise RunFailedError(
                f"Stage {job.stage} ended without a row for {len(missing)} candidates; "
                f"'csp resume {run.folder}' attempts them again."
            )
        if end != TOLD:
            result.lost.setdefault(owner, []).extend(missing)
    return result


def lost_rows(run: RunStore, pairs: Sequence[Pair], rank: RankSeen | None, how: str) -> list[Row]:
    """Rows of candidates that died with a rank, or that it took too long for.

    Args:
        run: their run.
        pairs: index and number of the attempt.
        rank: who had them; None where it died before it could sign.
        how: it died, in words.
    """
    who = "an MPI rank" if rank is None else str(rank)
    late = rank is not None and rank.end == LATE
    reason = Reason.TIMEOUT if late else Reason.WORKER_LOST
    others = f"; it had {len(pairs)} candidates in hand" if len(pairs) > 1 else ""
    rows = []
    for index, attempt in pairs:
        row = unmade(run, index, reason, f"{who} {how}{others}")
        completed(run, row, attempt, 0.0)
        row.update(wall_s=None, host=rank.host if rank is not None else None)
        rows.append(row)
    return rows


def death(rank: RankSeen | None, seen: dict[str, RankSeen], output: str) -> str:
    """How a rank ended, in words.

    Args:
        rank: which; None where it died before it could sign.
        seen: all ranks, by name.
        output: what the launcher printed.
    """
    if rank is None:
        return "died, nobody saw how"
    if rank.end == LATE:
        return f"was ended: {rank.text}"
    if rank.text:
        return f"ended with {rank.text}"
    neighbours = sorted(other.rank for other in seen.values() if other.host == rank.host)
    for host, codes in _EXIT_CODES.findall(output[output.rfind(_EXIT_CODES_HEAD) :]):
        statuses = [int(code) for code in codes.split(",")]
        if _short(host) == _short(rank.host) and len(statuses) == len(neighbours):
            return _in_words(statuses[neighbours.index(rank.rank)])
    words = " ".join(re.sub("-{3,}", " ", output).split())
    # "rank" says Open MPI, "task" Slurm
    says = re.search(rf"\b(?:rank|task) {rank.rank}\b.{{,{_QUOTED}}}", words)
    quoted = says.group() if says else words[-_QUOTED:]
    return f"died; the launcher says '{quoted}'" if quoted else "died, nobody saw how"


def _short(host: str) -> str:
    return host.partition(".")[0]


def _in_words(status: int) -> str:
    """A status of wait(2)."""
    number = status & 0x7F
    if number == 0:
        return f"ended with exit code {status >> 8}"
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"
