"""The options and help text of `csp synthesise`; the work is in `flows.synthetic_commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import Json, Verbose


def synthesise(
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DIR", show_default=False,
            help="Folder with the training molecules, as for csp train; molecules of its splits "
            "val and test are avoided.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder of the result.", show_default=False),
    ],
    molecules: Annotated[int, typer.Option("--molecules", min=1, help="Molecules in all.")] = 1000,
    crystals_per_molecule: Annotated[
        int,
        typer.Option("--crystals-per-molecule", min=1, help="Crystals attempted for each."),
    ] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all choices.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", show_default=False,
            help="Any other setting, for example --set training_share=0; may be repeated.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", metavar="M", min=0, show_default=False,
            help="Stop after so long; the same command continues.",
        ),
    ] = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Make synthetic training crystals: molecules old and new, packed at random and pressed.

    New molecules are made of pieces of the training molecules. DIR/train.npz is for csp train,
    DIR/train.json accounts for every attempt. The same command continues where it ended.

    Example: csp synthesise --data tables --out synthetic --molecules 1000 --workers 8
    """
    from flows import cli, run_commands, synthetic_commands

    terminal = cli.terminal
    terminal.json, terminal.quiet, terminal.verbose = json, quiet or json, verbose
    given: dict[str, object] = {
        "molecules": molecules, "crystals_per_molecule": crystals_per_molecule, "seed": seed
    }  # fmt: skip
    given |= dict(run_commands.parse_setting(text) for text in settings or [])
    synthetic_commands.synthesise(terminal, data, out, given, workers=workers, minutes=minutes)
