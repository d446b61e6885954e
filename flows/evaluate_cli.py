"""The options and help texts of `csp evaluate`; the work is in `flows.evaluate_commands`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.console import Terminal
from flows.options import Json, Quiet, Verbose

_EPILOG = """**Examples**

    csp evaluate --targets tables/crystals.parquet --split test --n 100
    csp evaluate --generator packflow-open --generator random+press --targets forms --n 64
    csp evaluate --generator model.pt --targets forms --variant raw --n 32 --seed 0 --seed 1
    csp evaluate --targets forms --n 8 --each-form --official      as the paper counts

TARGETS is a Parquet table of crystals with molecules.parquet beside it (docs/training.md describes
both), or a folder of CIFs with a manifest.csv that has the columns file and smiles.

Writes proposals.parquet, targets.parquet, efficiency.parquet, evaluation.json, evaluation.md and
the figures metrics, sample_efficiency, geometry and best_proposals. docs/evaluation.md explains
every number.
"""


class _Variant(StrEnum):
    RAW = "raw"
    RESTARTS = "restarts"
    REPAIRED = "repaired"


def add_to(app: typer.Typer, terminal: Callable[[], Terminal]) -> None:
    """Register the command.

    Args:
        app: the command line.
        terminal: gives the terminal of the command that is run.
    """

    @app.command(epilog=_EPILOG)
    def evaluate(
        targets: Annotated[
            list[Path],
            typer.Option(
                "--targets", metavar="PATH", show_default=False,
                help="Known crystals: a Parquet table, or a folder of CIFs with a manifest.csv. "
                "May be repeated; forms of one molecule come together.",
            ),
        ],
        generator: Annotated[
            list[str] | None,
            typer.Option(
                "--generator", show_default=False,
                help="As for csp run; may be repeated, to compare. Default: packflow-open.",
            ),
        ] = None,
        n: Annotated[
            int | None,
            typer.Option(
                "--n", min=1, show_default=False,
                help="Proposals of each molecule and seed, shared evenly among its Z. May grow "
                "later. Default: 100.",
            ),
        ] = None,
        seed: Annotated[
            list[int] | None,
            typer.Option("--seed", min=0, show_default=False, help="May be repeated. Default: 0."),
        ] = None,
        z: Annotated[
            str | None,
            typer.Option(
                "--z", show_default=False,
                help="Molecules per cell, comma-separated. Default: those of the known forms.",
            ),
        ] = None,
        variant: Annotated[
            list[_Variant] | None,
            typer.Option(
                "--variant", show_default=False,
                help="What is measured: drawn in one go from the noise (raw), drawn with restarts, "
                "after repair and relief. May be repeated. Default: all that a generator has.",
            ),
        ] = None,
        split: Annotated[
            str | None,
            typer.Option(
                "--split", show_default=False, help="Only this split: train, val or test."
            ),
        ] = None,
        origin: Annotated[
            list[str] | None,
            typer.Option(
                "--origin", show_default=False,
                help="Crystals that count as known forms, by their column origin. May be repeated. "
                "Default: experimental, minimised_experimental, csp_matches_experiment.",
            ),
        ] = None,
        molecules: Annotated[
            int | None,
            typer.Option(
                "--molecules", min=1, show_default=False,
                help="An evenly spaced subset of so many molecules.",
            ),
        ] = None,
        each_form: Annotated[
            bool,
            typer.Option(
                "--each-form", help="Compare with every known form by itself, as the paper does, "
                "instead of with the nearest.",
            ),
        ] = False,
        official: Annotated[
            bool,
            typer.Option(
                "--official", help="Element tables and single precision of the published code, to "
                "compare with published numbers.",
            ),
        ] = False,
        near: Annotated[
            float | None,
            typer.Option(
                "--near", metavar="Å", min=0.0, show_default=False,
                help="AMD distance up to which a proposal counts as near a known form. "
                "Default: 0.15.",
            ),
        ] = None,
        resamples: Annotated[
            int | None,
            typer.Option(
                "--resamples", show_default=False, help="Bootstrap resamples. Default: 2000."
            ),
        ] = None,
        confidence: Annotated[
            float | None,
            typer.Option(
                "--confidence", show_default=False, help="Of the intervals. Default: 0.95."
            ),
        ] = None,
        settings: Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="FIELD=VALUE", show_default=False,
                help="A field of the runs that says how proposals are drawn or repaired, for "
                "example --set generate.steps=50; may be repeated.",
            ),
        ] = None,
        workers: Annotated[
            int | None,
            typer.Option(
                "--workers", min=1, max=1024, show_default=False,
                help="Worker processes; one per processor when not given.",
            ),
        ] = None,
        out: Annotated[
            Path, typer.Option("--out", metavar="DIR", help="Folder of the evaluation.")
        ] = Path("evaluation"),
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:  # fmt: skip
        """Measure the proposals of generators against known crystals (paper, section 4.3).

        Density error, clashes, AMD and pair distribution distances, time per proposal, and how
        near the best of so many samples comes, with and without the repair. Called again with the
        same options, it continues an interrupted evaluation; finished proposals stay.
        """
        from flows import evaluate_commands

        shown = terminal()
        shown.json, shown.quiet, shown.verbose = json, quiet or json, verbose
        values: dict[str, Any] = {
            "targets": targets, "generators": generator, "n": n, "seeds": seed,
            "z": z, "variants": None if variant is None else [v.value for v in variant],
            "split": split, "origins": origin, "molecules": molecules, "each_form": each_form,
            "official": official, "near_A": near, "resamples": resamples,
            "confidence": confidence,
        }  # fmt: skip
        evaluation = evaluate_commands.settings_from_options(values, settings or [])
        raise typer.Exit(evaluate_commands.run(shown, evaluation, out, workers))
