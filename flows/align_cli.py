"""The options and help texts of `csp align`; the work is in `flows.align_commands`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.console import Terminal
from flows.options import Json, Minutes, NetworkDevice, Quiet, Tensorboard, Verbose

_EPILOG = """**Examples**

    csp align --molecules ours.smi --out aligned
    csp align --molecules tables --out aligned --engine uma-s-1p1 --mode heavy --device cuda
    csp align --molecules ours.smi --out aligned --set kl_weight=0.3 --set energy_share=0.5

The same command continues an interrupted alignment where its folder ends. docs/alignment.md
explains rewards and settings.
"""


class _Mode(StrEnum):
    HEAVY = "heavy"
    HYDROGENS = "hydrogens"
    PRESSED = "pressed"


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the command.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command(epilog=_EPILOG)
    def align(
        molecules: Annotated[
            Path,
            typer.Option(
                "--molecules", metavar="PATH", show_default=False,
                help="Text file with one SMILES a line, or a folder with training data.",
            ),
        ],
        out: Annotated[
            Path,
            typer.Option(
                "--out", metavar="DIR", help="Folder of the alignment.", show_default=False
            ),
        ],
        generator: Annotated[
            str, typer.Option("--generator", help="Model to begin with, which is the reference.")
        ] = "packflow-open",
        engine: Annotated[
            str | None,
            typer.Option("--engine", show_default=False,
                         help="Energy engine of the rewards. Default: gfnff."),
        ] = None,
        mode: Annotated[
            _Mode | None,
            typer.Option(
                "--mode", show_default=False,
                help="What the engine sees: heavy atoms alone, hydrogens added and relaxed, or the "
                "pressed crystal. Default: hydrogens.",
            ),
        ] = None,
        steps: Annotated[
            int | None, typer.Option("--steps", help="Batches of rollouts.", show_default=False)
        ] = None,
        validation: Annotated[
            Path | None,
            typer.Option(
                "--val", metavar="PATH", show_default=False,
                help="Molecules whose raw samples are watched; of a folder, its val split.",
            ),
        ] = None,
        settings: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="FIELD=VALUE",
                help="Any other setting, for example --set kl_weight=0.3; may be repeated.",
            ),
        ] = None,
        device: NetworkDevice = "auto",
        workers: Annotated[
            int | None,
            typer.Option("--workers", min=1, max=1024, show_default=False,
                         help="Processes for the rewards; one per processor when not given."),
        ] = None,
        threads: Annotated[
            int | None,
            typer.Option("--threads", min=1, help="CPU threads of the network.",
                         show_default=False),
        ] = None,
        minutes: Minutes = None,
        tensorboard: Tensorboard = False,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:  # fmt: skip
        """Align a PackFlow model with energies and forces, or continue an alignment.

        DIR/model.safetensors is the checkpoint so far; Ctrl-C saves and stops.
        """
        from flows import align_commands, run_commands
        from packflow_core.align.job import AlignJob

        where = terminal()
        where.json, where.quiet, where.verbose = json, quiet or json, verbose
        values: dict[str, object] = {"engine": engine, "mode": mode and mode.value, "steps": steps}
        given = {key: value for key, value in values.items() if value is not None}
        given |= dict(run_commands.parse_setting(text) for text in settings or [])
        job = AlignJob(
            molecules, out, align_commands.align_params(given), generator=generator,
            validation=validation, device=device, workers=workers, minutes=minutes,
            tensorboard=tensorboard,
        )  # fmt: skip
        align_commands.align(where, job, threads)
