"""The terminal of one command: who may write where, what an error looks like, and Ctrl-C.

Results go to standard output, everything else to standard error. While a run works, whatever
libraries and workers print goes to the run's log, so that it spoils neither bars nor JSON.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from packflow_core.errors import EXIT_RUN_FAILED, EXIT_USER_INPUT, PackflowError

if TYPE_CHECKING:
    from rich.console import Console

    from packflow_core.progress import Progress

EXIT_INTERRUPTED = 130
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
#: Time that an interrupted run has for leaving in order, s.
_GRACE_S = 10.0


class CommandInterrupted(PackflowError):  # noqa: N818  not a fault
    """The person at the terminal ended the command."""

    exit_code = EXIT_INTERRUPTED

    def __init__(self, folder: Path | None = None) -> None:
        kept = (
            f"; everything finished so far is kept. Continue with: csp resume {folder}"
            if folder
            else "."
        )
        super().__init__(f"Interrupted{kept}")


class Terminal:
    """Standard output and error as they were when the command started.

    Attributes:
        json: results are one JSON document.
        quiet: no progress and no table.
        verbose: log messages on standard error too.
        log: the run's log file, once opened.
        aliases: texts to show in place of others, such as a URI for the local copy of a run.
    """

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.verbose = False
        self.log: Path | None = None
        self.handler: logging.Handler | None = None
        self.aliases: dict[str, str] = {}
        self.out: TextIO = sys.stdout
        self.err: TextIO = sys.stderr

    def write(self, text: str) -> None:
        """A line of result."""
        self.out.write(self._named(text) + "\n")
        self.out.flush()

    def document(self, value: Any) -> None:
        """The one JSON document of a command."""
        self.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))

    def say(self, text: str) -> None:
        """A sentence for the person at the terminal."""
        self.err.write(self._named(text) + "\n")
        self.err.flush()

    def _named(self, text: str) -> str:
        for local, shown in self.aliases.items():
            text = text.replace(local, shown)
        return text

    def console(self, file: TextIO | None = None) -> Console:
        """A rich console on standard output, or on `file`; 100 columns where there is no width."""
        from rich.console import Console

        stream = file or self.out
        return Console(file=stream, width=None if stream.isatty() else 100, highlight=False)

    def progress(self) -> Progress:
        """Bars on a terminal, lines elsewhere, nothing when quiet."""
        from packflow_core.progress import LogProgress, RichProgress, SilentProgress

        if self.quiet:
            return SilentProgress()
        if self.err.isatty() and not self.verbose and os.environ.get("TERM") != "dumb":
            return RichProgress(self.console(self.err))
        log = logging.getLogger("csp.progress")
        if not self.verbose:
            handler = logging.StreamHandler(self.err)
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
            log.addHandler(handler)
        return LogProgress(log=log)

    def open_log(self, path: Path) -> None:
        """Log to `path`, and to standard error when verbose."""
        logging.raiseExceptions = False  # a full disk silences the log, not the command
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        self.handler = logging.FileHandler(path, encoding="utf-8")
        self.handler.setFormatter(logging.Formatter(_FORMAT))
        root.addHandler(self.handler)
        self.log = path
        if self.verbose:
            shown = logging.StreamHandler(self.err)
            shown.setFormatter(logging.Formatter(_FORMAT))
            root.addHandler(shown)
        logging.captureWarnings(True)
        logging.getLogger("httpx").setLevel(logging.WARNING)

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Send what anybody else writes to descriptors 1 and 2, children included, to the log."""
        if self.log is None or self.verbose:
            yield
            return
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [os.dup(1), os.dup(2)]
        streams = sys.stdout, sys.stderr
        self.out = os.fdopen(saved[0], "w", encoding="utf-8", errors="replace", closefd=False)
        self.err = os.fdopen(saved[1], "w", encoding="utf-8", errors="replace", closefd=False)
        target = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.dup2(target, 1)
            os.dup2(target, 2)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            self.out.flush()
            self.err.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            for descriptor in (target, *saved):
                os.close(descriptor)
            self.out, self.err = streams

    # -- ends ----------------------------------------------------------------------------------
    def fail(self, sentence: str, code: int) -> int:
        """Say what went wrong; returns the exit code."""
        sentence = " ".join(sentence.split())
        self.say(f"csp: {sentence}")
        if self.json:
            status = {EXIT_INTERRUPTED: "interrupted"}.get(code, "error")
            self.document({"status": status, "error": sentence, "exit_code": code})
        return code

    def report(self, error: BaseException) -> int:
        """Exit code of an exception, after one sentence about it."""
        if isinstance(error, PackflowError):
            if self.log is not None and not isinstance(error, CommandInterrupted):
                logging.getLogger("csp").error("%s", error, exc_info=error)
            return self.fail(str(error), error.exit_code)
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return EXIT_RUN_FAILED
        if hasattr(error, "format_message"):  # the option parser's errors
            text = str(error.format_message()).rstrip(".").replace("Value error, ", "")
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "csp"
            return self.fail(f"{text}; '{command} --help' lists what there is.", EXIT_USER_INPUT)
        return self._unexpected(error)

    def _unexpected(self, error: BaseException) -> int:
        trace = "".join(traceback.format_exception(error))
        if self.log is not None:
            logging.getLogger("csp").error("unexpected error\n%s", trace)
            where = self.log
        else:
            with tempfile.NamedTemporaryFile(
                "w", prefix="csp-", suffix=".log", delete=False, encoding="utf-8"
            ) as file:
                file.write(trace)
            where = Path(file.name)
        return self.fail(
            f"The command broke unexpectedly ({type(error).__name__}: {str(error)[:200]}); "
            f"the details are in {where}.",
            EXIT_RUN_FAILED,
        )


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a run in order: workers first, then the flow, then us.

    A second Ctrl-C, or a flow that does not come back within the grace period, ends the process
    at once; nothing recorded is lost either way.

    Raises:
        CommandInterrupted: whatever the flow made of the interruption.
    """
    from packflow_core.stages.pools import stop

    asked = threading.Event()

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(EXIT_INTERRUPTED)
        asked.set()
        timer = threading.Timer(_GRACE_S, os._exit, (EXIT_INTERRUPTED,))
        timer.daemon = True
        timer.start()
        threading.Thread(target=stop, daemon=True).start()
        raise KeyboardInterrupt

    previous = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException as error:
        if asked.is_set() or isinstance(error, KeyboardInterrupt):
            raise CommandInterrupted(folder) from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
