"""The options and help text of `csp match`; the work is in `flows.match_commands`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.console import Terminal
from flows.options import Json, Quiet

_EPILOG = """**Examples**

    csp match runs/urea known.cif               which structures of a run are the known form
    csp match runs/urea known.cif --json > match.json
    csp match predicted.cif known.cif           two crystals, every measure

docs/matching.md explains every measure, with its source.
"""


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the command.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command(epilog=_EPILOG)
    def match(
        source: Annotated[
            Path,
            typer.Argument(
                metavar="DIR|CRYSTAL.cif", show_default=False, help="Run folder, or one crystal."
            ),
        ],
        reference: Annotated[
            Path,
            typer.Argument(
                metavar="REFERENCE.cif", show_default=False, help="The crystal to be found."
            ),
        ],
        top: Annotated[int, typer.Option("--top", min=1, help="Best matches that are shown.")] = 10,
        window: Annotated[
            float | None,
            typer.Option(
                "--window", metavar="KJ_MOL", min=0.0, show_default=False,
                help="Only structures up to this far above the minimum, kJ/mol per molecule.",
            ),
        ] = None,
        shells: Annotated[
            str, typer.Option("--shells", metavar="N,N,...", help="Molecules in the clusters.")
        ] = "15,20,30",
        duplicates: Annotated[
            bool, typer.Option("--duplicates", help="Duplicates too, not only distinct structures.")
        ] = False,
        workers: Annotated[
            int | None,
            typer.Option(
                "--workers", min=1, max=1024, show_default=False,
                help="Worker processes; one per processor when not given.",
            ),
        ] = None,
        json: Json = False,
        quiet: Quiet = False,
    ) -> None:  # fmt: skip
        """Find a known crystal among predicted ones, by every measure in use.

        RMSD of clusters of 15, 20 and 30 molecules, RMSD of the conformer, density, distance of
        the PDDs, StructureMatcher, rank and energy above the minimum. No CSD licence is needed.
        """
        from flows import match_commands

        here = terminal()
        here.json, here.quiet = json, quiet or json
        sizes = match_commands.parse_shells(shells)
        if source.is_dir():
            match_commands.match_run(
                here, source, reference, sizes, top, window, duplicates, workers
            )
        else:
            match_commands.match_crystals(here, source, reference, sizes)
