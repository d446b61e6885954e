"""The options and help texts of `csp estimate`; the work is in `flows.estimate_commands`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.console import Terminal
from flows.options import Device, Json

_EPILOG = """**Examples**

    csp estimate 'c1ccccc1' --z 2,4 --n 1000
    csp estimate target.yaml --workers 64 --pilot 12
    csp estimate targets/*.yaml --json              each target, and the sum
    csp estimate blind_test --only XVII,XXII        targets of a campaign
    csp estimate target.yaml --keep runs/mine       the pilot is the beginning of that run

Ranges are 5 % to 95 %. docs/scale.md says how they come about and how they fared.
"""


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the command.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command(epilog=_EPILOG)
    def estimate(
        targets: Annotated[
            list[str],
            typer.Argument(
                metavar="SMILES|TARGET.yaml|CAMPAIGN ...", show_default=False,
                help="As for csp run, or as for csp campaign; several are added up.",
            ),
        ],
        n: Annotated[
            int | None, typer.Option("--n", help="Candidates of the run. Default: 100.")
        ] = None,
        pilot: Annotated[
            int,
            typer.Option(
                "--pilot", min=2, max=1000,
                help="Candidates that are really made; more narrow the ranges.",
            ),
        ] = 8,
        name: Annotated[str | None, typer.Option("--name", help="Name of the target.")] = None,
        z: Annotated[
            str | None,
            typer.Option("--z", metavar="Z,Z,...", help="Molecules per cell. Default: 2,4."),
        ] = None,
        generator: Annotated[
            str | None, typer.Option("--generator", help="As for csp run.")
        ] = None,
        engine: Annotated[
            str | None, typer.Option("--engine", help="Energy engine. Default: gfnff.")
        ] = None,
        refine: Annotated[
            list[str] | None,
            typer.Option("--refine", metavar="ENGINE[:WINDOW]", help="As for csp run."),
        ] = None,
        seed: Annotated[int | None, typer.Option("--seed", help="Seed. Default: 0.")] = None,
        steps: Annotated[
            int | None, typer.Option("--steps", help="ODE steps of the generator.")
        ] = None,
        settings: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="FIELD=VALUE",
                help="Any other field of the run, for example --set relax.protocol=paper.",
            ),
        ] = None,
        workers: Annotated[
            int | None,
            typer.Option(
                "--workers", min=1, max=1024, show_default=False,
                help="Worker processes of the run; the pilot uses no more than this machine has "
                "processors.",
            ),
        ] = None,
        device: Device = "auto",
        timeout: Annotated[
            float | None,
            typer.Option(
                "--timeout", min=1.0, show_default=False,
                help="Seconds that the relaxation of one candidate may take.",
            ),
        ] = None,
        keep: Annotated[
            Path | None,
            typer.Option(
                "--keep", metavar="DIR", show_default=False,
                help="Keep the pilot of a single target here; 'csp run --out DIR' with the same "
                "options continues it.",
            ),
        ] = None,
        only: Annotated[
            str | None,
            typer.Option(
                "--only", metavar="NAME,NAME,...", show_default=False,
                help="Targets of a campaign, by name, label or refcode.",
            ),
        ] = None,
        json: Json = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    ) -> None:  # fmt: skip
        """Forecast hours, memory and disk of a run from a pilot of a few candidates.

        The pilot goes through the real stages in a temporary folder and takes about as long as
        that many candidates do. Every forecast is a range: a pilot of eight knows the cost to
        about a factor of two.
        """
        from flows import estimate_commands
        from flows.how import How

        shown = terminal()
        shown.json, shown.quiet = json, quiet or json
        values: dict[str, object | None] = {
            "name": name, "z": z, "n": n, "generator": generator, "engine": engine,
            "refine": refine or None, "seed": seed, "generate.steps": steps,
        }  # fmt: skip
        given = {field: value for field, value in values.items() if value is not None}
        how = How(workers=workers, device=device, timeout_s=timeout)
        estimate_commands.estimate(
            shown, targets, given, settings or [], pilot, how, keep,
            [name.strip() for name in (only or "").split(",") if name.strip()],
        )  # fmt: skip
