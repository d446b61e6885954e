"""The options and help texts of `csp compare`; the work is in `flows.compare_commands`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.console import Terminal
from flows.options import Json, Quiet, Verbose, Workers

_EPILOG = """**Examples**

    csp compare runs/a runs/b --out comparison          two finished runs
    csp compare runs/a runs/b --compute 3600            the first hour of work of each
    csp compare target.yaml --generators packflow-open,random+press --n 64
    csp compare 'c1ccccc1' --generators packflow-open,random --seconds 3600 --reference known.cif

Writes comparison.md, comparison.json, comparison.parquet, candidates.parquet, curves.parquet and
the figures race*.png and race*.svg. docs/comparison.md explains every number.
"""


class _Protocol(StrEnum):
    CONVERGED = "converged"
    PAPER = "paper"


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the command.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command(epilog=_EPILOG)
    def compare(
        targets: Annotated[
            list[str],
            typer.Argument(
                metavar="DIR DIR [DIR ...] | SMILES | TARGET.yaml", show_default=False,
                help="Run folders; or, with --generators, a molecule as for csp run.",
            ),
        ],
        generators: Annotated[
            str | None,
            typer.Option(
                "--generators", metavar="NAME,NAME[,NAME ...]",
                help="Race these generators: run each in the folder DIR/METHOD of --out, all else "
                "equal, then compare. The same command continues an interrupted race.",
            ),
        ] = None,
        n: Annotated[
            int | None,
            typer.Option(
                "--n", min=1, help="Equal number: candidates of each generator (default 100); of "
                "finished runs the first N each (default: as many as the smallest has).",
            ),
        ] = None,
        seconds: Annotated[
            float | None,
            typer.Option(
                "--seconds", min=0.001, help="Equal compute: let each generator work so many "
                "seconds, generation to last relaxation, summed over its candidates.",
            ),
        ] = None,
        pilot: Annotated[
            int | None,
            typer.Option(
                "--pilot", min=1, show_default=False,
                help="Candidates of the first step towards --seconds; 4 for each Z when not given.",
            ),
        ] = None,
        compute: Annotated[
            float | None,
            typer.Option(
                "--compute", min=0.001, help="Of finished runs the first candidates within so many "
                "seconds of that work.",
            ),
        ] = None,
        window: Annotated[
            float | None,
            typer.Option(
                "--window", help="Structures up to so many kJ/mol above the lowest of all count as "
                "low in energy, and their basins are compared. Default: 20.",
            ),
        ] = None,
        resamples: Annotated[
            int | None, typer.Option("--resamples", help="Bootstrap resamples. Default: 1000.")
        ] = None,
        confidence: Annotated[
            float | None, typer.Option("--confidence", help="Of the intervals. Default: 0.95.")
        ] = None,
        known_form: Annotated[
            bool,
            typer.Option(
                "--known-form/--no-known-form", help="Relax the known form, too, to show where its "
                "energy lies.",
            ),
        ] = True,
        name: Annotated[
            str | None, typer.Option("--name", help="Name of the target.")
        ] = None,
        z: Annotated[
            str | None, typer.Option("--z", help="Molecules per cell, comma-separated.")
        ] = None,
        engine: Annotated[
            str | None, typer.Option("--engine", help="Energy engine. Default: gfnff.")
        ] = None,
        refine: Annotated[
            list[str] | None,
            typer.Option(
                "--refine", metavar="ENGINE[:WINDOW]", help="As for csp run; may be repeated."
            ),
        ] = None,
        reference: Annotated[
            Path | None,
            typer.Option("--reference", help="CIF of a known crystal, to count the hits."),
        ] = None,
        seed: Annotated[
            int | None,
            typer.Option("--seed", help="Seed of the generators; of finished runs that of the "
                         "bootstrap. Default: 0."),
        ] = None,
        protocol: Annotated[
            _Protocol | None, typer.Option("--protocol", help="Relaxation, as for csp run.")
        ] = None,
        campaign: Annotated[
            str | None, typer.Option("--campaign", help="Name of the campaign.")
        ] = None,
        max_failed: Annotated[
            float | None,
            typer.Option("--max-failed", help="Fraction of a generator's candidates that may fail "
                         "before the exit code is 3. Default: 0.5."),
        ] = None,
        settings: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="FIELD=VALUE", help="Any other field of csp run; may be repeated."
            ),
        ] = None,
        workers: Workers = None,
        ranks: Annotated[
            int | None,
            typer.Option("--ranks", min=1, max=100_000, show_default=False,
                         help="MPI ranks for the generators random and random+press."),
        ] = None,
        device: Annotated[
            str | None,
            typer.Option("--device", metavar="auto|cpu|cuda|cuda:N",
                         help="Where engines compute that can use a GPU. Default: auto."),
        ] = None,
        timeout: Annotated[
            float | None,
            typer.Option("--timeout", min=1.0, show_default=False,
                         help="Seconds that the relaxation of one candidate may take."),
        ] = None,
        retry_failed: Annotated[
            bool,
            typer.Option("--retry-failed", help="Attempt candidates again that failed for a "
                         "reason that may pass."),
        ] = False,
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="DIR", help="Folder of the results. Default: comparison; "
                         "of a race runs/CAMPAIGN/NAME/race."),
        ] = None,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:  # fmt: skip
        """Compare what generators found on one target, at an equal budget.

        Same molecule, engine and later stages; densities and energies before and after relaxation,
        the lowest energy by candidates and by compute, hits per hour, and which basins were found
        by which generator, with intervals.
        """
        out_of = terminal()
        out_of.json, out_of.quiet, out_of.verbose = json, quiet or json, verbose
        run_options: dict[str, Any] = {
            "--name": name, "--z": z, "--engine": engine, "--refine": refine or None,
            "--reference": reference, "--protocol": protocol, "--campaign": campaign,
            "--max-failed": max_failed, "--set": settings or None, "--workers": workers,
            "--ranks": ranks, "--device": device, "--timeout": timeout, "--seconds": seconds,
            "--pilot": pilot, "--retry-failed": retry_failed or None,
        }  # fmt: skip
        analysis = {
            "window_kJ_mol": window, "resamples": resamples, "confidence": confidence,
            "known_form": known_form,
        }  # fmt: skip
        from flows import compare_commands as commands

        if generators is None:
            folders = commands.folders_of(targets, run_options)
            chosen = commands.settings_from_options(
                {**analysis, "n": n, "compute_s": compute, "seed": seed}
            )
            raise typer.Exit(commands.compare_folders(out_of, folders, chosen, out))
        commands.check_race_options(targets, compute, n, seconds, pilot)
        from flows import run_commands
        from flows.how import How

        values: dict[str, object] = {
            "name": name, "z": z, "n": n, "engine": engine, "refine": refine or None,
            "reference": None if reference is None else str(reference), "seed": seed,
            "campaign": campaign, "max_failed": max_failed,
            "relax.protocol": None if protocol is None else protocol.value,
        }  # fmt: skip
        given = {field: value for field, value in values.items() if value is not None}
        spec = run_commands.spec_from_options(targets[0], given, settings or [])
        raise typer.Exit(
            commands.race_generators(
                out_of, spec, generators.split(","), seconds=seconds, pilot=pilot, out=out,
                settings=commands.settings_from_options(analysis),
                how=How(workers, device or "auto", timeout, retry_failed, ranks=ranks),
            )
        )  # fmt: skip
