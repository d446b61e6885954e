"""The options and help texts of `csp export` and `csp pxrd`; the work is in `export_commands`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.console import Terminal
from flows.options import Json, Quiet

_Folder = Annotated[Path, typer.Argument(help="Run folder.", metavar="DIR", show_default=False)]
_Duplicates = Annotated[
    bool, typer.Option("--duplicates", help="Duplicates too, not only distinct structures.")
]
_Window = Annotated[
    float | None,
    typer.Option(
        "--window", metavar="KJ_MOL", min=0.0, show_default=False,
        help="Only structures up to this far above the minimum, kJ/mol per molecule.",
    ),
]  # fmt: skip


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the commands.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command()
    def export(
        folder: _Folder,
        top: Annotated[
            int | None,
            typer.Option(
                "--top", min=1, show_default=False,
                help="The best so many structures. Default: 10, or with --window all in it.",
            ),
        ] = None,
        window: _Window = None,
        formats: Annotated[
            list[str] | None,
            typer.Option(
                "--format", metavar="FORMAT,...", show_default=False,
                help="cif (P1, one file each), symmetrised-cif (asymmetric unit and operations, "
                "one file each), mercury (the same in one file), extxyz, ase (database), or all; "
                "may be repeated. Default: cif.",
            ),
        ] = None,
        to: Annotated[
            Path | None,
            typer.Option("--to", metavar="DIR", help="Where. Default: DIR/export."),
        ] = None,
        duplicates: _Duplicates = False,
        json: Json = False,
    ) -> None:  # fmt: skip
        """Write the best structures for other programs, with their ranked table.

        An export into the folder of an earlier one replaces it.

        Example: csp export runs/urea --top 20 --window 10 --format cif,symmetrised-cif,mercury
        """
        from flows import export_commands
        from flows.object_folder import at_hand

        here = terminal()
        here.json, here.quiet = json, json
        with at_hand(folder, write=to is None, terminal=here) as local:
            export_commands.export(here, local, top, window, formats or ["cif"], to, duplicates)

    @app.command()
    def pxrd(
        folder: _Folder,
        pattern: Annotated[
            Path | None,
            typer.Option(
                "--pattern", metavar="FILE", show_default=False,
                help="Measured pattern: a text file of two columns, 2 theta in degrees and "
                "intensity.",
            ),
        ] = None,
        top: Annotated[
            int | None,
            typer.Option(
                "--top", min=1, show_default=False,
                help="The best so many structures. Default: 20, or with --window all in it.",
            ),
        ] = None,
        window: _Window = None,
        settings: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="FIELD=VALUE", show_default=False,
                help="A setting, for example --set wavelength_A=0.7107 or --set shift_deg=0.5; "
                "may be repeated.",
            ),
        ] = None,
        to: Annotated[
            Path | None, typer.Option("--to", metavar="DIR", help="Where. Default: DIR/pxrd.")
        ] = None,
        duplicates: _Duplicates = False,
        json: Json = False,
        quiet: Quiet = False,
    ) -> None:  # fmt: skip
        """Simulate powder patterns of the best structures and compare them with a measured one.

        Cu K-alpha, 3 to 50 degrees. The similarity tolerates shifts of peaks, and the cell may
        grow or shrink as a whole, because relaxed cells know no temperature. Writes pxrd.parquet,
        pxrd.csv, pxrd.png and pxrd.svg.

        Example: csp pxrd runs/urea --pattern measured.xy --top 50
        """
        from flows import export_commands
        from flows.object_folder import at_hand

        here = terminal()
        here.json, here.quiet = json, quiet or json
        with at_hand(folder, write=to is None, terminal=here) as local:
            export_commands.pxrd(here, local, pattern, top, window, settings or [], to, duplicates)
