"""One start of the launcher of MPI: the job's folder, the ranks watched, their rows gathered."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from packflow_core.errors import EXIT_USER_INPUT, RunFailedError, UserInputError
from packflow_core.mpi import main as rank_program
from packflow_core.mpi.dispatch import (
    ALIVE,
    OUTPUT_SUFFIX,
    STOP,
    Job,
    LogReader,
    RankSeen,
)
from packflow_core.mpi.guard import GuardedLauncher
from packflow_core.mpi.program import Launcher, mismatch, rank_environment
from packflow_core.mpi.settle import Settlement, fold, settle
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.store.atomic import make_folder
from packflow_core.worker_process import THREAD_VARIABLES

#: Folder inside the stage folder, where jobs are.
_FOLDER = "ranks"
_POLL_S = 0.25
#: Seconds between two signs of life for the ranks.
_BEAT_S = 5.0
#: Of what a launcher and its ranks say in an error, and of what a rank prints in the log.
_TAIL, _PRINTED = 300, 20_000


class Start:
    """One start of the launcher; a context manager that leaves no process and no journal.

    Args:
        run: held by this process.
        job: for the ranks.
        launcher: starts them.
        count: told of recorded rows: status, and how many.

    Attributes:
        seen: the ranks that have said something, by name.
        stopped: whether we ended them on request.
        output: what the launcher printed.
    """

    def __init__(
        self, run: RunStore, job: Job, launcher: Launcher, count: Callable[[str, int], None]
    ) -> None:
        self._run = run
        self._job = job
        self._launcher = launcher
        self._count = count
        self._told: Counter[str] = Counter()
        self._folder = run.stage(job.stage).folder.resolve() / _FOLDER / job.label
        self._reader = LogReader(self._folder)
        self._beat = 0
        self._stack = ExitStack()
        self.seen = self._reader.seen
        self.stopped = False
        self.output = ""

    def __enter__(self) -> Start:
        # What a killed process left; ranks of its that still live end when their folder is gone.
        shutil.rmtree(self._folder.parent, ignore_errors=True)
        make_folder(self._folder)
        self._stack.callback(shutil.rmtree, self._folder.parent, ignore_errors=True)
        try:
            threads = dict.fromkeys(THREAD_VARIABLES, "1")
            self._job.write(self._folder, threads, sys.path)
            self._stack.callback(fold, self._run, self._job)
            self._stack.callback(self._keep_output)
            program = [sys.executable, "-P", rank_program.__file__, str(self._folder)]
            command = self._launcher.command(self._job.ranks, program)
            self._alive()
            self._guard = self._stack.enter_context(
                GuardedLauncher(command, self._folder, {**rank_environment(), **threads})
            )
            self._stack.callback(self._end)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def watch(self, stopping: Callable[[], bool]) -> None:
        """Wait until the ranks have ended, or end them, and tell of their rows meanwhile.

        Raises:
            PackflowError: a rank raised it.
            UserInputError: the ranks do not know each other.
            RunFailedError: the process that guards the launcher was killed.
        """
        beaten = time.monotonic()
        while not self._guard.ended(_POLL_S):
            if stopping():
                self.stopped = True
                break
            self._news()
            if time.monotonic() - beaten > _BEAT_S:
                self._alive()
                beaten = time.monotonic()
        self._end()
        self._guard.stop()
        self.output = self._guard.output
        self._news()
        if self._guard.returncode is None and not self.stopped:
            raise RunFailedError(
                "The process that watches over the MPI ranks was killed; continue with "
                f"'csp resume {self._run.folder}'."
            )

    def settle(self) -> Settlement:
        """What became of the work; the ranks have ended."""
        fold(self._run, self._job)
        found = settle(self._run, self._job, self._folder, self.seen)
        for status, rows in (found.counts - self._told).items():
            self._count(status, rows)
        return found

    def failure(self) -> RunFailedError:
        """That nothing came of it, with what was said last."""
        said = [rank.text for rank in self.seen.values() if rank.text]
        printed = [path.read_text(errors="replace") for path in self._printed()]
        words = " ".join(next((t for t in (*said, self.output, *printed) if t.strip()), "").split())
        tail = words if len(words) <= _TAIL else f"...{words[-_TAIL:]}"
        return RunFailedError(
            f"MPI ranks recorded nothing; '{self._launcher}' ended with exit code "
            f"{self._guard.returncode}: {tail or 'it said nothing'}"
        )

    def _news(self) -> None:
        for counts in self._reader.news():
            for status, rows in counts.items():
                self._told[status] += rows
                self._count(status, rows)
        for rank in self.seen.values():
            self._check(rank)

    def _check(self, rank: RankSeen) -> None:
        if rank.size not in (0, self._job.ranks):
            raise mismatch(self._launcher, self._job.ranks, rank.size, rank.library)
        if rank.exit_code is not None:
            kind = UserInputError if rank.exit_code == EXIT_USER_INPUT else RunFailedError
            raise kind(rank.text)

    def _alive(self) -> None:
        """Tell the ranks that we live; in place, so that network file systems see it at once."""
        self._beat += 1
        with suppress(OSError):
            (self._folder / ALIVE).write_text(str(self._beat))

    def _end(self) -> None:
        """Tell the ranks to end."""
        with suppress(OSError):
            (self._folder / STOP).touch()

    def _printed(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{OUTPUT_SUFFIX}"))

    def _keep_output(self) -> None:
        """Append what the ranks printed to the run's log, as that of workers."""
        with suppress(OSError), open(self._run.folder / LOG, "ab") as log:
            for path in self._printed():
                log.write(path.read_bytes()[-_PRINTED:])
