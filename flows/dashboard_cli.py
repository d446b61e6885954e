"""The options and help text of `csp dashboard`; the work is in `flows.dashboard_commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dashboard(
    roots: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[ROOT]...", show_default=False,
            help="Folders below which runs are looked for. Default: runs.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8050,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Address to listen on. Everybody who reaches it can read all runs below ROOT: "
            "there is no login.",
        ),
    ] = "127.0.0.1",
    allow_actions: Annotated[
        bool,
        typer.Option(
            "--allow-actions", help="Buttons that resume runs through a Prefect server."
        ),
    ] = False,
    prefect_url: Annotated[
        str | None,
        typer.Option(
            "--prefect-url", envvar="PREFECT_API_URL", show_default=False,
            help="API of the Prefect server, for the buttons.",
        ),
    ] = None,
    refresh: Annotated[
        float, typer.Option("--refresh", min=0.5, help="Seconds between two looks at the store.")
    ] = 5.0,
    cpu_hour: Annotated[
        float | None,
        typer.Option(
            "--cpu-hour", min=0.0, show_default=False,
            help="Price of an hour of one processor, to show what runs cost.",
        ),
    ] = None,
    gpu_hour: Annotated[
        float | None,
        typer.Option(
            "--gpu-hour", min=0.0, show_default=False, help="Price of an hour of one GPU."
        ),
    ] = None,
) -> None:  # fmt: skip
    """Show campaigns in the browser: how far they are, landscapes, structures, failures.

    The page reads the run folders, refreshes by itself and needs no network. It changes nothing
    unless it is started with --allow-actions. Ctrl-C ends it; runs do not notice.

    Example: csp dashboard runs --port 8050
    """
    from flows import cli, dashboard_commands

    dashboard_commands.dashboard(
        cli.terminal, roots or [Path("runs")], port=port, host=host, allow_actions=allow_actions,
        prefect_url=prefect_url, refresh_s=refresh, cpu_hour_price=cpu_hour,
        gpu_hour_price=gpu_hour,
    )  # fmt: skip
