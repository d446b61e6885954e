"""The programs that `csp up` keeps running, as command lines and environments."""

from __future__ import annotations

import glob
import os
import socket
import sys
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

from flows.up_state import Setup, StateFolder

#: Work pools that exist on every server; deployments name them.
POOLS = ("cpu", "gpu", "mpi")
#: Time that a program has for ending in order, s.
_GRACE_S = 20.0


@dataclass(frozen=True)
class Service:
    """A program that is started again when it ends.

    Attributes:
        name: also that of its log.
        command: with its arguments.
        environment: variables on top of those of all programs.
        grace_s: time for ending in order, s.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    grace_s: float = _GRACE_S


def server(setup: Setup) -> Service:
    """Prefect's server with its page, on SQLite unless the environment names a database.

    The page runs in browsers, which must be told an address that leads here from where they are.
    """
    name = socket.gethostname() if setup.host in ("0.0.0.0", "::") else setup.host
    browsers = f"http://{f'[{name}]' if ':' in name else name}:{setup.port}/api"
    return Service(
        "server",
        [
            sys.executable, "-P", "-m", "prefect", "server", "start",
            "--host", setup.host, "--port", str(setup.port),
        ],
        {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_UI_API_URL": os.environ.get("PREFECT_UI_API_URL", browsers),
        },
    )  # fmt: skip


def workers(setup: Setup) -> list[Service]:
    """A process worker for each pool."""
    return [
        Service(
            f"worker-{pool}",
            [
                sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", pool,
                "--type", "process", "--name", f"csp-up-{pool}",
                "--install-policy", "never",
            ],
            {"PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2")},
        )
        for pool in setup.pools
    ]  # fmt: skip


def dashboard(setup: Setup) -> Service | None:
    """The dashboard over the runs, for this machine alone because it has no login."""
    if not setup.dashboard_port:
        return None
    return Service(
        "dashboard",
        [
            sys.executable, "-P", "-m", "flows.cli", "dashboard", str(Path(setup.folder, "runs")),
            "--host", "127.0.0.1", "--port", str(setup.dashboard_port), "--allow-actions",
        ],
    )  # fmt: skip


def has_dashboard() -> bool:
    """Whether the extra `dashboard` is installed."""
    return all(util.find_spec(name) for name in ("dash", "waitress", "dashboard"))


def environment(setup: Setup, folder: StateFolder) -> dict[str, str]:
    """Environment of all programs: whom to talk to, and nothing of the user's own profile."""
    values = {
        **folder.environment(),
        "PREFECT_HOME": str(folder.prefect_home),
        "PREFECT_PROFILES_PATH": str(folder.prefect_home / "profiles.toml"),
        "PREFECT_API_URL": setup.api,
        "PREFECT_LOGGING_LEVEL": os.environ.get("PREFECT_LOGGING_LEVEL", "INFO"),
        "DO_NOT_TRACK": "1",
        "PWD": setup.folder,
        "PYTHONUNBUFFERED": "1",
    }
    if password := values.get("PREFECT_SERVER_API_AUTH_STRING"):
        values.setdefault("PREFECT_API_AUTH_STRING", password)
    if setup.dashboard_port:
        values["PACKFLOW_DASHBOARD_URL"] = f"http://127.0.0.1:{setup.dashboard_port}"
    return values


def default_pools() -> tuple[str, ...]:
    """Pools that this machine can serve: gpu only where there is one."""
    has_gpu = bool(glob.glob("/dev/nvidia[0-9]*"))
    return tuple(pool for pool in POOLS if pool != "gpu" or has_gpu)
