"""Trainings of several processes on one machine: started, watched and ended together.

Every rank is a spawned process. The one that calls watches them: when a rank dies, the others,
which would wait for it for ever, are ended and one sentence says what happened.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from packflow_core.errors import PackflowError, RunFailedError, UserInputError
from packflow_core.training.job import Job, Outcome, run_job

log = logging.getLogger(__name__)

_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
#: Time for the other ranks to say what they know when one has died, and between looks, s.
_LAST_WORDS_S, _POLL_S = 2.0, 0.2


def check_ranks(size: int, device: str) -> None:
    """Check that a machine can run so many ranks.

    Raises:
        UserInputError: there are fewer GPUs, or PyTorch cannot do it here.
    """
    import torch

    if size == 1:
        return
    if not torch.distributed.is_available():
        raise UserInputError("This build of PyTorch trains with one process only; use one rank.")
    if device == "cuda" and size > torch.cuda.device_count():
        raise UserInputError(
            f"{size} GPUs were asked for and PyTorch sees {torch.cuda.device_count()}; ask for "
            "fewer, or use --device cpu with --ranks."
        )


@dataclass
class _Rank:
    """One process, as its parent sees it."""

    number: int
    process: SpawnProcess
    connection: Connection
    outcome: Outcome | None = None
    error: tuple[str, str] | None = None
    silent: bool = False

    @property
    def failed(self) -> bool:
        """Whether it told of an error, or ended without a result."""
        ended = self.process.exitcode is not None
        return self.error is not None or (ended and self.silent and self.outcome is None)


def launch(
    job: Job,
    size: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
    log_file: Path | None = None,
) -> Outcome:
    """Train with `size` processes on this machine: with one GPU each, or on the CPU.

    Args:
        job: the training.
        size: number of ranks.
        on_step, stop: see `packflow_core.training.job.run_job`.
        log_file: what the ranks log and print goes there; None for nowhere.

    Raises:
        UserInputError: what a rank says of the input.
        RunFailedError: a rank died, and the sentence says which and how to continue; or the ranks
            do not agree.
    """
    check_ranks(size, job.device)
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()
    step = 0
    with tempfile.TemporaryDirectory(prefix="csp-train-") as meeting:
        ranks = []
        try:
            for number in range(size):
                mine, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_rank_main,
                    args=(job, number, size, f"{meeting}/store", theirs, stopping, log_file),
                    name=f"csp train, rank {number}",
                )
                process.start()
                theirs.close()
                ranks.append(_Rank(number, process, mine))
            while any(rank.outcome is None for rank in ranks):
                for rank, message in _messages(ranks, _POLL_S):
                    if rank.number == 0 and message[0] == "step":
                        step = message[1]
                        on_step(step, message[2])
                if stop():
                    stopping.set()
                if any(rank.failed for rank in ranks):
                    _collect_last_words(ranks)
                    raise _what_happened(ranks, step)
        finally:
            for rank in ranks:
                _end(rank)
    return _agreed([rank.outcome for rank in ranks if rank.outcome is not None])


def _agreed(outcomes: list[Outcome]) -> Outcome:
    """The outcome of all ranks, given that of each.

    Raises:
        RunFailedError: their weights differ, so what was saved is what one of them alone learned.
    """
    if len({(outcome.step, outcome.weights) for outcome in outcomes}) > 1:
        raise RunFailedError(
            "The ranks of this training ended with different weights, which a fault of a machine "
            "must have caused; train again in another folder."
        )
    return outcomes[0]


def _messages(ranks: list[_Rank], timeout: float) -> list[tuple[_Rank, tuple[Any, ...]]]:
    """What the ranks have said since the last look; their ends are noted in them."""
    open_ones: dict[Any, _Rank] = {r.connection: r for r in ranks if not r.silent}
    found = []
    for connection in wait(list(open_ones), timeout):
        rank = open_ones[connection]
        try:
            message = rank.connection.recv()
        except (EOFError, OSError):
            rank.silent = True
            rank.process.join(_LAST_WORDS_S)
            continue
        if message[0] == "done":
            rank.outcome = message[1]
        elif message[0] == "error":
            rank.error = message[1:]
        found.append((rank, message))
    return found


def _collect_last_words(ranks: list[_Rank]) -> None:
    """Hear out the others for a moment: the first to fail need not be the culprit."""
    deadline = time.monotonic() + _LAST_WORDS_S
    while time.monotonic() < deadline and not all(r.silent for r in ranks):
        _messages(ranks, _POLL_S)


def _what_happened(ranks: list[_Rank], step: int) -> PackflowError:
    """The error of the rank that failed by itself, not of those that lost it."""
    for rank in ranks:
        if rank.error is not None and rank.error[0] in ("UserInputError", "RunFailedError"):
            kind = UserInputError if rank.error[0] == "UserInputError" else RunFailedError
            return kind(rank.error[1])
    again = "the same command continues from the last saved step"
    for rank in ranks:
        code = rank.process.exitcode
        if rank.error is None and rank.failed and code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            hint = " (out of memory, perhaps)" if code == -signal.SIGKILL else ""
            return RunFailedError(
                f"Rank {rank.number} of the {len(ranks)} of this training {how}{hint} after step "
                f"{step}; {again}."
            )
    culprit = next((r for r in ranks if r.error and r.error[0] != "lost"), None)
    culprit = culprit or next(r for r in ranks if r.error)
    assert culprit.error is not None
    return RunFailedError(
        f"Rank {culprit.number} of the {len(ranks)} of this training broke after step {step} "
        f"({culprit.error[1]}); the log has the details, and {again}."
    )


def _end(rank: _Rank) -> None:
    # A rank whose part is done leaves by itself; one that waits for another never would.
    rank.process.join(5.0 if rank.outcome is not None else 0.0)
    if rank.process.is_alive():
        rank.process.kill()
        rank.process.join()
    rank.connection.close()


# -- in the process of a rank ----------------------------------------------------------------
def _rank_main(
    job: Job,
    number: int,
    size: int,
    meeting: str,
    connection: Connection,
    stopping: Event,
    log_file: Path | None,
) -> None:
    """What a rank does."""
    # Ctrl-C, or a cluster's warning, reaches all processes; the parent decides what becomes of it.
    for warning in (signal.SIGINT, signal.SIGTERM):
        signal.signal(warning, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    _redirect(log_file, logging.INFO if number == 0 else logging.WARNING)
    from packflow_core.training.ranks import join, leave

    def tell(*message: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            connection.send(message)

    try:
        ranks = join(number, size, job.device, f"file://{meeting}")
        outcome = run_job(
            job,
            ranks,
            on_step=lambda step, loss: tell("step", step, loss) if number == 0 else None,
            stop=stopping.is_set,
        )
        leave(ranks)
        tell("done", outcome)
    except PackflowError as error:
        tell("error", type(error).__name__, str(error))
    except Exception as error:
        log.error("rank %d broke\n%s", number, traceback.format_exc())
        text = f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"
        tell("error", "lost" if _lost_another(error) else "broken", text)


def _lost_another(error: Exception) -> bool:
    """Whether an error only says that another rank is gone."""
    from torch import distributed

    text = str(error).lower()
    words = ("connection closed by peer", "connection reset", "broken pipe", "gloo", "nccl")
    return isinstance(error, distributed.DistError) or any(word in text for word in words)


def _redirect(log_file: Path | None, level: int) -> None:
    """Send what libraries print to the log, and log there."""
    target = os.open(log_file or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    logging.basicConfig(level=level, format=_LOG_FORMAT, force=True)


def _watch_parent(parent: int) -> None:
    """End this process, busy or not, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
