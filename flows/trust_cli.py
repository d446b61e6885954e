"""The options of `csp verify` and `csp free-energy`; the work is in `flows.trust_commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import Json, Quiet, Workers

Folder = Annotated[
    Path,
    typer.Argument(help="Run folder, or s3://BUCKET/PREFIX.", metavar="DIR", show_default=False),
]
Top = Annotated[
    int, typer.Option("--top", metavar="N", min=1, max=1000, help="The best distinct structures.")
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", help="Where the engine computes."),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", min=1.0, show_default=False,
        help="Seconds that one energy, force call or relaxation may take; from what the run's "
        "relaxations took when not given.",
    ),
]  # fmt: skip


def verify(
    folder: Folder,
    top: Top = 10,
    relax: Annotated[
        bool,
        typer.Option("--relax/--no-relax", help="Relax them tighter, too; dear."),
    ] = True,
    workers: Workers = None,
    device: Device = "auto",
    timeout: Timeout = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check the best structures: their energies in other cells, and relaxed tighter.

    An energy that changes with the cell it is written in, or when the optimiser goes on, is not
    known better than that. Writes trust.parquet and trust.json; the sentences also stand under
    the ranked table and in the report. A command that was interrupted goes on where it was.

    Example: csp verify runs/urea --top 5 --no-relax
    """
    from flows import cli, trust_commands
    from flows.object_folder import at_hand

    cli.terminal.json, cli.terminal.quiet = json, quiet or json
    with at_hand(folder, write=True, terminal=cli.terminal) as local:
        trust_commands.verify(cli.terminal, local, top, relax, workers, device, timeout)


def free_energy(
    folder: Folder,
    top: Top = 5,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="K", min=0.0, max=2000.0, help="In kelvin.")
    ] = 300.0,
    supercell: Annotated[
        str,
        typer.Option(
            "--supercell", metavar="A,B,C|equal",
            help="Repeats of every cell along a, b and c; or 'equal': as many as give all about "
            "the number of molecules of the largest cell.",
        ),
    ] = "equal",
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask, however long it takes.")
    ] = False,
    workers: Workers = None,
    device: Device = "auto",
    timeout: Timeout = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Rank the best structures by their harmonic free energy at a temperature.

    They are relaxed tighter, displaced atom by atom (phonopy), and their modes summed; imaginary
    ones are reported. Tells its price first and needs --yes where that is above ten minutes.
    Writes free_energy.parquet and free_energy.json. A command that was interrupted goes on where
    it was; another temperature costs nothing.

    Example: csp free-energy runs/urea --top 3 --temperature 150
    """
    from flows import cli, trust_commands
    from flows.object_folder import at_hand

    cli.terminal.json, cli.terminal.quiet = json, quiet or json
    with at_hand(folder, write=True, terminal=cli.terminal) as local:
        trust_commands.free_energy(
            cli.terminal, local, top, temperature, supercell, yes, workers, device, timeout
        )
