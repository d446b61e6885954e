"""The options of `csp conformers`; the work is in `flows.conformer_commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import Json, Quiet


def conformers(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SMILES|TARGET.yaml", show_default=False,
            help="SMILES of one neutral molecule, or a target file.",
        ),
    ],
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, max=5000, show_default=False,
            help="Geometries to embed. When not given: 50 for up to 7 rotatable bonds, 200 for up "
            "to 12, 300 for more.",
        ),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            "--window", metavar="KJ", min=0.0, show_default=False,
            help="Keep conformers up to so many kJ/mol above the lowest. Default: 25.",
        ),
    ] = None,
    rmsd: Annotated[
        float | None,
        typer.Option(
            "--rmsd", metavar="Å", min=0.0, max=10.0, show_default=False,
            help="Conformers are one whose heavy atoms agree within this RMSD. Default: 0.3.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--max", metavar="K", min=1, max=5000, show_default=False,
            help="Keep the lowest K. Default: 100.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=1_000_000, show_default=False,
            help="Seed of the embedding. Default: 0.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", show_default=False,
            help="Take the conformers of this file (.xyz, .sdf, ...), one per frame, instead of a "
            "search.",
        ),
    ] = None,
    optimise: Annotated[
        str | None,
        typer.Option(
            "--optimise", metavar="ENGINE", show_default=False,
            help="Relax the conformers again with an energy engine, for example gfnff; energies "
            "and window are the engine's then.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=1024, show_default=False,
            help="Worker processes of the engine.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", metavar="auto|cpu|cuda|cuda:N", help="Where the engine computes."
        ),
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", show_default=False,
            help="Folder of the files. Default: conformers/NAME.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Find the conformers of a molecule: what it may look like in a crystal.

    Writes conformers.parquet, conformers.sdf and conformers.xyz. 'csp run' makes the same ones
    under the same settings, and its tables name them by these numbers.

    Example: csp conformers 'CC(=O)Oc1ccccc1C(=O)O' --window 40 --optimise gfnff
    """
    from flows import cli, conformer_commands

    cli.terminal.json, cli.terminal.quiet = json, quiet or json
    values: dict[str, object] = {
        "n_embed": n,
        "window_kJ_mol": window,
        "rmsd_A": rmsd,
        "max_conformers": keep,
        "seed": seed,
        "file": None if file is None else str(file),
    }
    given = {name: value for name, value in values.items() if value is not None}
    conformer_commands.conformers(cli.terminal, target, given, out, optimise, workers, device)
