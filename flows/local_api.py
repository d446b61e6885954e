"""Prefect in the background of one command: a quick private API, and logs in a file.

`prepare` must be called before prefect is imported. Without PREFECT_API_URL a command starts
Prefect's temporary API server in a home of its own, so that neither a broken profile nor another
run's SQLite file is in the way. A migrated, empty database is kept in the user's cache folder,
which saves half of the start-up.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packflow_core.errors import RunFailedError, UserInputError

logger = logging.getLogger(__name__)

_DATABASE = "prefect.db"
#: Environment variable with the URL of the temporary server of this command.
_PRIVATE_URL = "PACKFLOW_PRIVATE_API_URL"
_START_TRIES = 3
_QUIET = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # Nothing in a run of one command needs these, and they poll the database.
    "PREFECT_API_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_API_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "DO_NOT_TRACK": "1",
}


def prepare() -> None:
    """Set Prefect's environment for a command; call it before prefect is imported.

    Raises:
        UserInputError: PREFECT_API_URL is set and nothing answers there.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    if url := os.environ.get("PREFECT_API_URL"):
        _check_server(url)
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if "PREFECT_HOME" not in os.environ:
        home = tempfile.mkdtemp(prefix="packflow-prefect-")
        os.environ["PREFECT_HOME"] = home
        os.environ["PREFECT_PROFILES_PATH"] = str(Path(home) / "profiles.toml")
        os.environ["PACKFLOW_PRIVATE_HOME"] = home
        _copy_template(Path(home) / _DATABASE)
        atexit.register(shutil.rmtree, home, ignore_errors=True)


def start_server() -> None:
    """Start the temporary API server, unless PREFECT_API_URL names a real one.

    Raises:
        RunFailedError: it did not come up.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    from prefect.server.api.server import SubprocessASGIServer

    class BoundServer(SubprocessASGIServer):
        """Prefect's temporary server, but it ends when this process ends, however that ends."""

        def _run_uvicorn_command(self) -> subprocess.Popen[bytes]:
            from prefect.settings import get_current_settings

            environment = {
                **os.environ,
                **get_current_settings().to_environment_variables(exclude_unset=True),
                "PREFECT_UI_ENABLED": "0",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
            }
            home = os.environ.get("PACKFLOW_PRIVATE_HOME", "")
            command = [
                sys.executable, "-P", str(Path(__file__).with_name("api_server.py")), home,
                "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1",
                "--port", str(self.port), "--log-level", "error", "--lifespan", "on",
            ]  # fmt: skip
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=_log_descriptor(),
                process_group=0,  # a signal to the terminal's group is for us, not for it
            )  # fmt: skip

    why = "it ended at once"
    for _ in range(_START_TRIES):
        # The instance registers itself where Prefect's client looks for a running server.
        server = BoundServer()
        try:
            server.start()
        except Exception as error:
            why = str(error)
            server.stop()
            continue
        # Two commands may choose one port at the same time. Then the health check of the one
        # whose server could not bind was answered by the other's.
        if server.server_process is not None and server.server_process.poll() is None:
            _keep_template()
            os.environ[_PRIVATE_URL] = server.api_url
            return
        server.stop()
    raise RunFailedError(
        f"Prefect's temporary API server did not start ({why}); set PREFECT_API_URL to a server "
        "of yours, or free a port between 8000 and 9000."
    )


@contextlib.contextmanager
def starting(handler: logging.Handler) -> Iterator[None]:
    """Start the server while the block imports the flow; both take seconds.

    Args:
        handler: takes Prefect's logs.

    Raises:
        RunFailedError: the server does not start.
    """
    redirect_logging(handler)
    failure: list[BaseException] = []

    def start() -> None:
        try:
            start_server()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failure:
        raise failure[0]


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Name the temporary server to processes of other runners, which would start their own."""
    url = os.environ.get(_PRIVATE_URL)
    if url is None:
        yield
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(updates={PREFECT_API_URL: url}):
        yield


def redirect_logging(handler: logging.Handler) -> None:
    """Send Prefect's logs to `handler` and keep them off the terminal."""
    import prefect.logging  # noqa: F401  its import configures the loggers

    for name in list(logging.root.manager.loggerDict):
        if name == "prefect" or name.startswith("prefect."):
            log = logging.getLogger(name)
            log.handlers = [h for h in log.handlers if "Console" not in type(h).__name__]
    logging.root.handlers = [h for h in logging.root.handlers if "Console" not in type(h).__name__]
    logging.getLogger("prefect").addHandler(handler)


def _check_server(url: str) -> None:
    request = urllib.request.Request(f"{url.rstrip('/')}/health")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in is Prefect's to say
    except (OSError, ValueError) as error:
        raise UserInputError(
            f"PREFECT_API_URL is {url}, but no Prefect server answers there "
            f"({getattr(error, 'reason', error)}); start it, or unset the variable to run without."
        ) from error


def start_from_template(home: Path) -> None:
    """Give a Prefect home that has no database yet a migrated, empty one, where one is kept."""
    if not (home / _DATABASE).exists():
        _copy_template(home / _DATABASE)


def _template() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "packflow-csp" / f"prefect-{metadata.version('prefect')}.db"


def _copy_template(database: Path) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        shutil.copyfile(_template(), database)


def _keep_template() -> None:
    """Keep a copy of the fresh, migrated database for the next command."""
    home = os.environ.get("PACKFLOW_PRIVATE_HOME")
    try:
        template = _template()
        if not home or template.exists():
            return
        template.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=template.parent)
        os.close(descriptor)
        with (
            contextlib.closing(sqlite3.connect(Path(home) / _DATABASE)) as source,
            contextlib.closing(sqlite3.connect(name)) as copy,
        ):
            source.backup(copy)
        os.replace(name, template)
    except (OSError, RuntimeError, sqlite3.Error):
        logger.debug("no database template was kept", exc_info=True)


def _log_descriptor() -> int:
    """File descriptor of the run's log, for what the server says when it breaks."""
    for handler in logging.getLogger("prefect").handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            return handler.stream.fileno()
    return subprocess.DEVNULL
