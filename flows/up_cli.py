"""The options and help texts of `csp up` and `csp down`; the work is in `flows.up_commands`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.console import Terminal
from flows.options import Json

_EPILOG = """**Examples**

    csp up                                  server, workers and deployments on this machine
    prefect deployment run csp/blind-test   after the export that csp up prints
    csp up --status
    csp down

docs/deployments.md has the same as plain prefect commands, and what several machines need.
"""

_State = Annotated[
    Path | None,
    typer.Option(
        "--state", metavar="DIR", show_default=False,
        help="State folder: database, logs, process ids. Default: $PACKFLOW_STATE or "
        "~/.local/state/packflow-csp.",
    ),
]  # fmt: skip


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the commands.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command(epilog=_EPILOG)
    def up(
        host: Annotated[
            str, typer.Option("--host", help="Address that the server binds to.")
        ] = "127.0.0.1",
        port: Annotated[
            int, typer.Option("--port", min=1, max=65535, help="Its port.")
        ] = 4200,
        pools: Annotated[
            str | None,
            typer.Option(
                "--pools", metavar="NAME,NAME,...", show_default=False,
                help="Work pools that get a worker on this machine: cpu, gpu, mpi. Default: all, "
                "gpu only where there is one.",
            ),
        ] = None,
        folder: Annotated[
            Path | None,
            typer.Option(
                "--dir", metavar="DIR", show_default=False,
                help="Folder below which runs are written. Default: this one.",
            ),
        ] = None,
        dashboard_port: Annotated[
            int | None,
            typer.Option(
                "--dashboard-port", min=0, max=65535, show_default=False,
                help="Port of the dashboard; 0 for none. Default: 8050 where the extra dashboard "
                "is installed.",
            ),
        ] = None,
        schedules: Annotated[
            bool,
            typer.Option(
                "--schedules", help="Let deployments with a schedule start by themselves."
            ),
        ] = False,
        without_password: Annotated[
            bool,
            typer.Option(
                "--without-password", help="With another --host, although no password is set."
            ),
        ] = False,
        foreground: Annotated[
            bool, typer.Option("--foreground", help="Stay in the foreground, for systemd.")
        ] = False,
        status: Annotated[
            bool, typer.Option("--status", help="Only say what is up.")
        ] = False,
        state: _State = None,
        json: Json = False,
    ) -> None:  # fmt: skip
        """Bring up a Prefect server, workers and all deployments on this machine.

        They stay when the terminal is closed; a worker that dies is replaced. Called again, it
        registers the deployments anew.
        """
        from flows import up_commands
        from flows.up_services import POOLS, default_pools, has_dashboard
        from flows.up_state import Setup, StateFolder, default_state_folder
        from packflow_core.errors import UserInputError

        where = terminal()
        where.json, where.quiet = json, json
        state_folder = StateFolder(state or default_state_folder())
        if status:
            raise typer.Exit(up_commands.show(where, state_folder))
        names = tuple(name.strip() for name in pools.split(",")) if pools else default_pools()
        if wrong := [name for name in names if name not in POOLS]:
            raise UserInputError(
                f"--pools {wrong[0]} is not a work pool; pools are {', '.join(POOLS)}."
            )
        page = (8050 if has_dashboard() else 0) if dashboard_port is None else dashboard_port
        if page and not has_dashboard():
            raise UserInputError(
                "The dashboard is not installed; add it with pip install "
                "'packflow-csp[dashboard]', or leave --dashboard-port out."
            )
        setup = Setup(host, port, names, up_commands.working_folder(folder), schedules, page)
        raise typer.Exit(
            up_commands.up(
                where, state_folder, setup,
                without_password=without_password, foreground=foreground,
            )
        )  # fmt: skip

    @app.command()
    def down(state: _State = None, json: Json = False) -> None:
        """Take down what csp up brought up. Runs in progress are interrupted and can be resumed."""
        from flows import up_commands
        from flows.up_state import StateFolder, default_state_folder

        where = terminal()
        where.json, where.quiet = json, json
        raise typer.Exit(up_commands.down(where, StateFolder(state or default_state_folder())))
