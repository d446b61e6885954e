"""The options and help texts of `csp train`; the work is in `flows.train_commands`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.console import Terminal
from flows.options import Json, Minutes, NetworkDevice, Quiet, Tensorboard, Verbose

_EPILOG = """**Examples**

    csp train --data tables --out model --steps 20000 --cooldown 5000
    csp train --data tables --out small --preset 2M
    csp train --data synthetic=0.7 --data tables=0.3 --out mixed
    csp train --data tables --out tuned --init mixed/model.safetensors
    csp train --data tables --out no-bonds --preset 60M --ablation no-bonds
    csp train --data tables --out model --gpus 4

The same command continues an interrupted training where its folder ends. docs/training.md describes
data, presets and settings.
"""


class _Preset(StrEnum):
    OPEN = "open"
    M2 = "2M"
    M20 = "20M"
    M60 = "60M"


class _Architecture(StrEnum):
    OPEN = "open"
    OFFICIAL = "official"


class _Ablation(StrEnum):
    NO_BONDS = "no-bonds"
    BOND_GNN = "bond-gnn"
    SHARED_TIME = "shared-time"


#: What the ablations of the paper's table 1 set.
_ABLATIONS: dict[_Ablation, dict[str, object]] = {
    _Ablation.NO_BONDS: {"bonds": "none"},
    _Ablation.BOND_GNN: {"bonds": "gnn"},
    _Ablation.SHARED_TIME: {"shared_fraction": 1.0},
}


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the command.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command(epilog=_EPILOG)
    def train(
        data: Annotated[
            list[str],
            typer.Option(
                "--data", metavar="DIR[=WEIGHT]", show_default=False,
                help="Folder with crystals.parquet and molecules.parquet, or with train.npz and "
                "val.npz. May be repeated to mix, with weights.",
            ),
        ],
        out: Annotated[
            Path,
            typer.Option(
                "--out", metavar="DIR", help="Folder of the training.", show_default=False
            ),
        ],
        preset: Annotated[
            _Preset | None,
            typer.Option(
                "--preset", show_default=False,
                help="Size: open, or 2M, 20M, 60M as published, trained as in the paper.",
            ),
        ] = None,
        architecture: Annotated[
            _Architecture | None,
            typer.Option(
                "--architecture", show_default=False,
                help="open: the network of this project. official: the published one, which the "
                "presets 2M, 20M and 60M mean when nothing is said.",
            ),
        ] = None,
        ablations: Annotated[
            list[_Ablation] | None,
            typer.Option(
                "--ablation", show_default=False,
                help="Leave something out of the official architecture, as in the paper's table 1; "
                "shared-time can be added to another.",
            ),
        ] = None,
        steps: Annotated[
            int | None, typer.Option("--steps", help="Optimiser steps in all.", show_default=False)
        ] = None,
        cooldown: Annotated[
            int | None, typer.Option("--cooldown", help="Last steps, with a falling learning rate.")
        ] = None,
        settings: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="FIELD=VALUE",
                help="Any other setting, for example --set d_model=320; may be repeated.",
            ),
        ] = None,
        init: Annotated[
            str | None,
            typer.Option(
                "--init", metavar="MODEL", show_default=False,
                help="Start a new training with the weights of this model: a name or a checkpoint.",
            ),
        ] = None,
        device: NetworkDevice = "auto",
        gpus: Annotated[
            int | None,
            typer.Option(
                "--gpus", min=1, show_default=False,
                help="GPUs of this machine to train on together, each with a batch of its own.",
            ),
        ] = None,
        ranks: Annotated[
            int | None,
            typer.Option(
                "--ranks", min=1, show_default=False, help="Processes that train together on CPUs."
            ),
        ] = None,
        threads: Annotated[
            int | None,
            typer.Option("--threads", min=1, help="CPU threads a process.", show_default=False),
        ] = None,
        minutes: Minutes = None,
        tensorboard: Tensorboard = False,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:  # fmt: skip
        """Train a PackFlow model on your own crystals, or continue an interrupted training.

        DIR/model.safetensors is the checkpoint so far; Ctrl-C saves and stops.
        """
        from flows import run_commands, train_commands
        from packflow_core.errors import UserInputError

        where = terminal()
        where.json, where.quiet, where.verbose = json, quiet or json, verbose
        if gpus and ranks:
            raise UserInputError("--gpus counts the ranks already; leave --ranks away.")
        if gpus and device == "cpu":
            raise UserInputError("--gpus needs --device cuda or auto; use --ranks on a CPU.")
        values: dict[str, object] = {
            "preset": preset and preset.value,
            "architecture": architecture and architecture.value,
            "steps": steps,
            "cooldown": cooldown,
        }
        if {_Ablation.NO_BONDS, _Ablation.BOND_GNN} <= set(ablations or []):
            raise UserInputError(
                "--ablation no-bonds leaves nothing for bond-gnn to do; give one of them."
            )
        for ablation in ablations or []:
            values |= _ABLATIONS[ablation]
            values["architecture"] = values["architecture"] or "official"
        given = {key: value for key, value in values.items() if value is not None}
        given |= dict(run_commands.parse_setting(text) for text in settings or [])
        train_commands.train(
            where, data, out, given, device="cuda" if gpus else device, threads=threads,
            minutes=minutes, init=init, ranks=gpus or ranks or 1, tensorboard=tensorboard,
        )  # fmt: skip
