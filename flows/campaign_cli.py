"""The options and help texts of `csp campaign`; the work is in `flows.campaign_commands`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.console import Terminal
from flows.options import Device, Json, Quiet, Verbose, Workers

_EPILOG = """**Examples**

    csp campaign blind_test --n 16                     all targets of the blind tests
    csp campaign blind_test --only XVII,XAFPAY --n 64  some of them, by label or refcode
    csp campaign mine.yaml --out runs/mine             targets of your own
    csp campaign blind_test --list                     what there is to search

Writes campaign.parquet, known_forms.parquet, campaign.csv, campaign.md and campaign.html, and a run
folder for each target. The same command continues an interrupted campaign. docs/deployments.md
describes the file.
"""


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the command.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command(epilog=_EPILOG)
    def campaign(
        file: Annotated[
            str,
            typer.Argument(
                metavar="FILE.yaml|NAME", show_default=False,
                help="Campaign file, or the name of one that comes with packflow-csp: blind_test.",
            ),
        ],
        only: Annotated[
            str | None,
            typer.Option(
                "--only", metavar="TARGET,TARGET,...", show_default=False,
                help="Names or labels of targets; all when not given.",
            ),
        ] = None,
        n: Annotated[
            int | None,
            typer.Option("--n", show_default=False, help="Candidates of each target."),
        ] = None,
        generator: Annotated[
            str | None, typer.Option("--generator", help="As for csp run.", show_default=False)
        ] = None,
        engine: Annotated[
            str | None, typer.Option("--engine", help="As for csp run.", show_default=False)
        ] = None,
        refine: Annotated[
            list[str] | None,
            typer.Option(
                "--refine", metavar="ENGINE[:WINDOW]", show_default=False,
                help="As for csp run; may be repeated.",
            ),
        ] = None,
        seed: Annotated[
            int | None, typer.Option("--seed", help="Seed of all runs.", show_default=False)
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out", metavar="DIR", show_default=False,
                help="Folder of the campaign. Default: runs/NAME.",
            ),
        ] = None,
        workers: Workers = None,
        device: Device = "auto",
        timeout: Annotated[
            float | None,
            typer.Option(
                "--timeout", min=1.0, show_default=False,
                help="Seconds that the relaxation of one candidate may take.",
            ),
        ] = None,
        retry_failed: Annotated[
            bool,
            typer.Option(
                "--retry-failed",
                help="Attempt candidates again that failed for a reason that may pass.",
            ),
        ] = False,
        show: Annotated[
            bool, typer.Option("--list", help="Only list the targets.")
        ] = False,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:  # fmt: skip
        """Search many targets alike, and tabulate what became of them.

        A target that fails costs itself alone. Targets that are finished are not computed again.
        """
        from flows import campaign_commands
        from flows.how import How

        where = terminal()
        where.json, where.quiet, where.verbose = json, quiet or json, verbose
        names = [name.strip() for name in (only or "").split(",") if name.strip()]
        if show:
            raise typer.Exit(campaign_commands.list_targets(where, file, names))
        values: dict[str, object] = {
            "n": n, "generator": generator, "engine": engine, "refine": refine or None,
            "seed": seed,
        }  # fmt: skip
        raise typer.Exit(
            campaign_commands.run(
                where, file, names, values, out, How(workers, device, timeout, retry_failed)
            )
        )
