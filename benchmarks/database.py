"""The database of a Prefect server under load: many tiny task runs on SQLite and on PostgreSQL.

    python benchmarks/database.py --tasks 10000 --rate 15 --database sqlite postgresql

Starts a real server on a free port of this machine for each database, lets several processes run
flows whose tasks do nothing, waits until the server has digested what it was told, and counts what
it recorded. With `--rate 0` tasks come as fast as they can, which no real campaign does.
PostgreSQL is a fresh cluster in a temporary folder; its programs come from Debian's package
postgresql. Where they are not installed that part is skipped with a sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Server log lines that mean trouble, by what they are counted as.
TROUBLE = {
    "lock errors": re.compile(
        r"database is locked|deadlock detected|could not (serialize|obtain lock)", re.I
    ),
    # What Prefect answers when SQLite was locked, or PostgreSQL gone, for longer than it waits.
    "refused with 503": re.compile(r"Error: Server error '503 "),
    "queue overflows": re.compile(r"queue.*(full|overflow|dropp)|(dropp|full).*queue", re.I),
    "errors": re.compile(r"\| ERROR|^Traceback", re.I),
}
#: What the documentation advises for a server of campaigns: patience where the machine is busy.
PATIENT = {
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
}
#: Time without a newly recorded task run after which nothing more is expected, s.
QUIET_S = 30.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000, help="task runs in all")
    parser.add_argument("--flow-runs", type=int, default=20, help="flow runs they are spread over")
    parser.add_argument("--at-once", type=int, default=4, help="processes that run flows")
    parser.add_argument(
        "--database", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"]
    )
    parser.add_argument("--rate", type=float, default=15.0, help="task runs a second, in all")
    parser.add_argument("--client", type=float, nargs=3, metavar=("FLOWS", "TASKS", "SECONDS"))
    options = parser.parse_args()
    if options.client:
        flows, tasks, pause_s = options.client
        client(int(flows), int(tasks), pause_s)
        return
    for name in options.database:
        with tempfile.TemporaryDirectory(prefix=f"packflow-{name}-") as folder:
            if name == "postgresql" and programs() is None:
                print("postgresql: skipped, initdb is not installed (apt-get install postgresql)")
                continue
            pause_s = options.at_once / options.rate if options.rate else 0.0
            found = measure(
                name, Path(folder), options.tasks, options.flow_runs, options.at_once, pause_s
            )
            print(json.dumps({**found, "asked for a second": options.rate}), flush=True)


def client(flows: int, tasks: int, pause_s: float) -> None:
    """Run flows, one after the other, each with so many tasks that only wait so long."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.futures import wait
    from prefect.task_runners import ThreadPoolTaskRunner

    @task(cache_policy=NO_CACHE, persist_result=False, log_prints=False)
    def nothing(number: int) -> int:
        time.sleep(pause_s)
        return number

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False)
    def load(count: int) -> int:
        futures = [nothing.submit(i) for i in range(count)]
        return len(wait(futures).done)

    for _ in range(flows):
        load(tasks)


def measure(
    name: str, folder: Path, tasks: int, flow_runs: int, at_once: int, pause_s: float
) -> dict[str, object]:
    """One database: time, recorded task runs and trouble."""
    with database(name, folder) as url, server(folder, url) as (api, log):
        each = tasks // flow_runs
        shares = [flow_runs // at_once + (i < flow_runs % at_once) for i in range(at_once)]
        began = time.perf_counter()
        clients = [
            subprocess.Popen(
                [sys.executable, __file__, "--client", str(share), str(each), str(pause_s)],
                env={**os.environ, "PREFECT_API_URL": api, "PREFECT_LOGGING_LEVEL": "ERROR",
                     "PREFECT_HOME": str(folder / "home")},
                stdout=subprocess.DEVNULL, stderr=(folder / f"client{i}.log").open("wb"),
            )
            for i, share in enumerate(shares) if share
        ]  # fmt: skip
        slowest, flows_s, seen, changed = 0.0, None, 0, began
        while True:
            asked = time.perf_counter()
            try:
                done = count(api, "COMPLETED")
            except OSError:
                done = seen
            now = time.perf_counter()
            slowest = max(slowest, now - asked)
            if done > seen:
                seen, changed = done, now
            if flows_s is None and all(c.poll() is not None for c in clients):
                flows_s = now - began
                changed = max(changed, now)
            if seen >= each * flow_runs or (flows_s is not None and now - changed > QUIET_S):
                break
            time.sleep(1.0)
        for process in clients:
            process.wait()
        if flows_s is None:
            flows_s = time.perf_counter() - began
        logs = [log, *sorted(folder.glob("client*.log"))]
        text = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
        failed = [i for i, c in enumerate(clients) if c.returncode != 0]
        for i in failed:
            said = (folder / f"client{i}.log").read_text(errors="replace").splitlines()
            print(f"client {i} failed: {said[-1] if said else ''}", file=sys.stderr)
        return {
            "database": version(name),
            "task runs": each * flow_runs,
            "recorded as completed": seen,
            "recorded at all": count(api),
            "flows took s": round(flows_s, 1),
            "digested after s": round(changed - began, 1),
            "task runs a second": round(seen / (changed - began), 1),
            "slowest answer s": round(slowest, 2),
            "clients that failed": len(failed),
            **{what: sum(bool(p.search(line)) for line in text) for what, p in TROUBLE.items()},
            "database MB": round(size_mb(name, folder), 1),
        }


# -- the server and its database ------------------------------------------------------------------
@contextmanager
def server(folder: Path, url: str) -> Iterator[tuple[str, Path]]:
    """A Prefect server on that database: URL of its API and its log."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    log = folder / "server.log"
    home = folder / "home"
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"],
        env={
            **os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": api,
            "PREFECT_API_DATABASE_CONNECTION_URL": url, "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", **PATIENT,
        },
        stdout=log.open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"the server ended: {log.read_text(errors='replace')[-2000:]}")
            try:
                urllib.request.urlopen(f"{api}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield api, log
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def database(name: str, folder: Path) -> Iterator[str]:
    """Connection URL of an empty database."""
    if name == "sqlite":
        yield f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
        return
    found = programs()
    assert found is not None
    data, port = folder / "pg", free_port()
    data.mkdir()
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        folder.chmod(0o755)
        shutil.chown(data, "postgres", "postgres")
    as_postgres(found / "initdb", "-D", data, "-U", "prefect", "--auth=trust", "-E", "UTF8")
    as_postgres(
        found / "pg_ctl", "-D", data, "-w", "-l", data / "log", "-o",
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= ", "start",
    )  # fmt: skip
    try:
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        as_postgres(found / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")


def as_postgres(*command: object) -> None:
    """Run a program of PostgreSQL, as its own user where we are root."""
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    subprocess.run(
        [*(prefix if os.geteuid() == 0 else []), *map(str, command)],
        check=True, stdout=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip


def programs() -> Path | None:
    """Folder of PostgreSQL's programs, of the newest version; None where there is none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if versions:
        return versions[0].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def version(name: str) -> str:
    """The database with its version."""
    if name == "sqlite":
        import sqlite3

        return f"SQLite {sqlite3.sqlite_version}"
    found = programs()
    assert found is not None
    told = subprocess.run(
        [found / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return told.stdout.strip().replace("postgres (", "").replace(")", "", 1)


def size_mb(name: str, folder: Path) -> float:
    """Size of the database on disk, MB."""
    where = [folder / "pg"] if name == "postgresql" else []
    files = [f for w in where for f in w.rglob("*")] or list(folder.glob("prefect.db*"))
    return sum(f.stat().st_size for f in files if f.is_file()) / 1e6


def count(api: str, state: str | None = None) -> int:
    """Task runs that the server knows, of one type of state or all."""
    body = {"task_runs": {"state": {"type": {"any_": [state]}}}} if state else {}
    request = urllib.request.Request(
        f"{api}/task_runs/count", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return int(json.load(answer))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
