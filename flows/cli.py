"""The command `csp`: options and help texts; the work is in `flows.commands`.

Nothing heavy is imported here, so that help is there at once.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import (
    align_cli,
    campaign_cli,
    compare_cli,
    conformer_cli,
    dashboard_cli,
    estimate_cli,
    evaluate_cli,
    export_cli,
    match_cli,
    synthetic_cli,
    train_cli,
    trust_cli,
    up_cli,
)
from flows.console import EXIT_INTERRUPTED, CommandInterrupted, Terminal
from flows.options import Device, Json, Quiet, Verbose, Workers

_EPILOG_RUN = """**Examples**

    csp run 'c1ccccc1' --name benzene --z 2,4 --n 50
    csp run target.yaml --reference known.cif --workers 8
    csp run 'O=C(N)N' --out runs/urea --json > urea.json
    csp run 'O=C(N)N' --refine gfn1-xtb:10      relax the best 10 kJ/mol again with GFN1-xTB

A target file holds the same fields as the options:

    smiles: O=C(N)N
    name: urea
    z: [2, 4]
    reference: urea.cif
"""

app = typer.Typer(
    name="csp",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Molecular crystal structure prediction: a SMILES in, ranked crystals out.

A run goes through the stages generate, hydrogenate, relax_h, relax and rank; refinements with
other engines (relax_2, ...) come before the ranking. Every attempted candidate keeps a row in every
stage, with a status and a reason; a run that was interrupted, even by a kill, continues where it
was.""",
    epilog="""**First steps**

    csp doctor                      is everything in place?
    csp run 'c1ccccc1' --n 20       predict the crystals of benzene
    csp status runs/single/...      how far is it, what became of the candidates
    csp resume runs/single/...      continue an interrupted run

**Exit codes**

    0    done
    1    the run failed
    2    the input was wrong
    3    finished, with more failures than allowed
    130  interrupted

**Environment**

`PREFECT_API_URL` names a Prefect server that shall record the runs. Without it a temporary one is
started and ended with the command.

`PACKFLOW_ALLOW_ENGINES` names engines that run foreign code and may come from target files, resumed
folders and deployments; what you type as `--engine` or `--refine` is allowed by that.

`PACKFLOW_RUNNER=dask:...` hands the chunks of a run to a Dask cluster; `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY` and `AWS_ENDPOINT_URL` open run folders at `s3://`; see docs/scale.md.""",
)
models = typer.Typer(
    no_args_is_help=True, help="List, show, download, verify and convert PackFlow models."
)
app.add_typer(models, name="models")

terminal = Terminal()


class Protocol(StrEnum):
    """Relaxation protocols of a run."""

    CONVERGED = "converged"
    PAPER = "paper"


Folder = Annotated[
    Path,
    typer.Argument(help="Run folder, or s3://BUCKET/PREFIX.", metavar="DIR", show_default=False),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "--ranks", min=1, max=100_000, show_default=False,
        help="MPI ranks that make the candidates of the generators random and random+press, "
        "instead of worker processes.",
    ),
]  # fmt: skip
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", min=1.0, show_default=False,
        help="Seconds that the relaxation of one candidate may take (600 for the hydrogens, 3600 "
        "for the rest when not given); twice as long when it is tried again.",
    ),
]  # fmt: skip


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options of the command itself."""
    if version:
        from packflow_core import __version__

        terminal.write(f"csp {__version__}")
        raise typer.Exit


@app.command(epilog=_EPILOG_RUN)
def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SMILES|TARGET.yaml", show_default=False,
            help="SMILES of one neutral molecule, or a YAML file with the fields of the run; "
            "options given here win over the file.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the target; from the formula when not given."),
    ] = None,
    z: Annotated[
        str | None,
        typer.Option(
            "--z", metavar="Z,Z,...",
            help="Molecules per cell, 1 to 16, comma-separated; with shares, 2:1,4:3 makes three "
            "candidates of Z=4 for one of Z=2. Default: 2,4.",
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", help="Candidates in all, shared among Z. May grow later: the first candidates "
            "stay the same. Default: 100.",
        ),
    ] = None,
    density: Annotated[
        str | None,
        typer.Option(
            "--density", metavar="LOW:HIGH",
            help="Only candidates of this density, g/cm3; one end may be open, as in 1.3:. Others "
            "are rejected as soon as they are made.",
        ),
    ] = None,
    volume: Annotated[
        str | None,
        typer.Option(
            "--volume", metavar="LOW:HIGH",
            help="Only candidates of this volume, Å3 a molecule; likewise.",
        ),
    ] = None,
    racemic: Annotated[
        bool,
        typer.Option(
            "--racemic",
            help="Crystals of both hands of a chiral molecule. Without it every molecule has the "
            "hand of the SMILES.",
        ),
    ] = False,
    generator: Annotated[
        str | None,
        typer.Option(
            "--generator",
            help="PackFlow model: a name of 'csp models list' or a checkpoint file. Or a baseline: "
            "random, random+press, genarris-plain, genarris-press. Default: packflow-open.",
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Energy engine. Default: gfnff.")
    ] = None,
    refine: Annotated[
        list[str] | None,
        typer.Option(
            "--refine", metavar="ENGINE[:WINDOW]",
            help="Relax the best candidates again with another engine: those within WINDOW kJ/mol "
            "of the minimum (default 40). May be repeated, each takes the best of the one before.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="CIF of a known crystal, to find it in the ranking."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Seed; same seed, same candidates. Default: 0."),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            "--protocol",
            help="Relaxation: 'converged' (forces and residual stress) or 'paper' (forces only, "
            "as published). Default: converged.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="ODE steps of the generator.")
    ] = None,
    campaign: Annotated[
        str | None, typer.Option("--campaign", help="Name of the campaign. Default: single.")
    ] = None,
    max_failed: Annotated[
        float | None,
        typer.Option(
            "--max-failed",
            help="Fraction of candidates that may fail before the exit code is 3. Default: 0.5.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE",
            help="Any other field, for example --set relax.max_steps=500; may be repeated.",
        ),
    ] = None,
    workers: Workers = None,
    ranks: Ranks = None,
    device: Device = "auto",
    timeout: Timeout = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR",
            help="Run folder, or s3://BUCKET/PREFIX. Default: runs/CAMPAIGN/NAME/GENERATOR.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Attempt candidates again that failed for a reason that may pass.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Predict the crystal structures of one molecule.

    Writes ranked.parquet, ranked.csv, report.html, report.md, landscape.png, structures/*.cif and
    run.json into the run folder. Called again with the same options, it continues an interrupted
    run; a folder that holds another run is refused.
    """
    from flows import run_commands
    from flows.how import How

    _output(json, quiet, verbose)
    values: dict[str, object] = {
        "name": name, "z": z, "n": n, "generator": generator, "engine": engine,
        "reference": None if reference is None else str(reference), "seed": seed,
        "campaign": campaign, "max_failed": max_failed,
        "relax.protocol": None if protocol is None else protocol.value,
        "generate.steps": steps, "refine": refine or None,
        "density": density, "volume": volume, "racemic": racemic or None,
    }  # fmt: skip
    given = {field: value for field, value in values.items() if value is not None}
    spec = run_commands.spec_from_options(target, given, settings or [])
    how = How(workers, device, timeout, retry_failed, ranks=ranks)
    raise typer.Exit(run_commands.run(terminal, spec, out, how))


@app.command()
def resume(
    folder: Folder,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Attempt candidates again that failed for a reason that may pass: timeout, lost "
            "worker, engine error.",
        ),
    ] = False,
    workers: Workers = None,
    ranks: Ranks = None,
    device: Device = "auto",
    timeout: Timeout = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Continue an interrupted run from its folder alone.

    Finished candidates are not computed again, whatever ended the run: Ctrl-C, a kill, a power
    cut. The result equals that of an unbroken run.
    """
    from flows import run_commands
    from flows.how import How

    _output(json, quiet, verbose)
    how = How(workers, device, timeout, retry_failed, ranks=ranks)
    raise typer.Exit(run_commands.resume(terminal, folder, how))


@app.command()
def status(folder: Folder, json: Json = False) -> None:
    """Show how far a run is and what became of its candidates, also while it works."""
    from flows import commands
    from flows.object_folder import at_hand

    _output(json)
    with at_hand(folder, write=False, terminal=terminal) as here:
        commands.status(terminal, here)


@app.command()
def failures(
    folder: Folder,
    stage: Annotated[str | None, typer.Option("--stage", help="Only this stage.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Only this reason.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List every candidate instead of groups.")
    ] = False,
    requeue: Annotated[
        str | None,
        typer.Option(
            "--requeue", metavar="REASON",
            help="Mark the candidates that failed for this reason, in --stage or anywhere, for "
            "another attempt.",
        ),
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Show why candidates were rejected, failed or did not converge, the largest group first.

    'csp resume DIR' attempts those again that --requeue marked; with --retry-failed also every
    other one whose reason may pass.

    Example: csp failures runs/urea --requeue engine_error
    """
    from flows import commands
    from flows.object_folder import at_hand

    _output(json)
    if requeue is not None and (reason is not None or every):
        raise typer.BadParameter("--requeue goes with --stage alone")
    with at_hand(folder, write=requeue is not None, terminal=terminal) as here:
        if requeue is None:
            commands.failures(terminal, here, stage, reason, every)
        else:
            commands.requeue(terminal, here, requeue, stage)


@app.command()
def rank(
    folder: Folder,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Analyse and rank again, then renew the report.")
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="CIF of a known crystal, instead of the run's."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE",
            help="A field of the ranking, for example --set rank.duplicate_rmsd_A=0.3.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Lines of the table.")] = 20,
    workers: Workers = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Show the ranked table; with --rerank, rank anew with another reference or tolerance.

    The relaxed candidates are not touched. The earlier analysis stays in its stage folder.

    Example: csp rank runs/urea --rerank --reference urea.cif
    """
    from flows import commands, run_commands
    from flows.object_folder import at_hand

    _output(json, quiet, verbose)
    with at_hand(folder, write=rerank, terminal=terminal) as here:
        if rerank:
            code = run_commands.rerank(terminal, here, reference, settings or [], workers)
        else:
            code = commands.show_ranking(terminal, here, reference, settings or [], top)
    raise typer.Exit(code)


@app.command()
def report(folder: Folder, json: Json = False) -> None:
    """Write the table, structures, picture and report again from what the run holds now."""
    from flows import commands
    from flows.object_folder import at_hand

    _output(json)
    with at_hand(folder, write=True, terminal=terminal) as here:
        commands.report(terminal, here)


@app.command()
def doctor(json: Json = False) -> None:
    """Check that everything a run needs is in place: packages, model, engine, disk, Prefect."""
    from flows import commands

    _output(json)
    raise typer.Exit(commands.doctor(terminal))


@models.command("measure")
def models_measure(
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DIR", help="Data folder, as for csp train.", show_default=False
        ),
    ],
    model: Annotated[
        str, typer.Argument(help="Name of a model or checkpoint file.")
    ] = "packflow-open",
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "test",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples a molecule.")] = 16,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="ODE steps.", show_default=False)
    ] = None,
    restarts: Annotated[
        bool,
        typer.Option(
            "--restarts/--no-restarts", help="Draw again from part of the noise, or only once."
        ),
    ] = True,
    molecules: Annotated[
        int, typer.Option("--molecules", min=0, help="Evenly spaced subset; 0: all.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    json: Json = False,
) -> None:  # fmt: skip
    """Measure raw samples of a model, before any repair: bonds, density, clashes.

    Densities are compared with the median of a molecule's own crystals; csp evaluate compares
    the proposals of any generator with known forms.

    Example: csp models measure packflow-open --data tables --split test
    """
    from flows import train_commands

    _output(json)
    train_commands.measure(
        terminal, model, data, split, samples=samples, steps=steps, restarts=restarts,
        molecules=molecules, seed=seed,
    )  # fmt: skip


@models.command("list")
def models_list(json: Json = False) -> None:
    """List the models that have a name: whose they are, their licence, and which are here."""
    from flows import model_commands

    _output(json)
    model_commands.list_models(terminal)


@models.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="Name or checkpoint file.")] = "packflow-open",
    json: Json = False,
) -> None:
    """Show a model: licence, source, hash, configuration, training."""
    from flows import model_commands

    _output(json)
    model_commands.show_model(terminal, model)


@models.command("download")
def models_download(
    model: Annotated[
        str, typer.Argument(help="Name of a published model.", show_default=False)
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Also when it is on this machine already.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Fetch a published model from Hugging Face, once; its hash is recorded.

    An interrupted download goes on where it was. HF_ENDPOINT names a mirror, HF_TOKEN a token,
    https_proxy a proxy.

    Example: csp models download packflow-60M
    """
    from flows import model_commands

    _output(json, quiet)
    model_commands.download_model(terminal, model, force)


@models.command("verify")
def models_verify(
    model: Annotated[str, typer.Argument(help="Name or checkpoint file.")] = "packflow-open",
    accept: Annotated[
        bool,
        typer.Option(
            "--accept", help="Take the file of a published model that is here for the right one."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check a model's hash, load it and sample one crystal with it; exit code 2 when it fails."""
    from flows import model_commands

    _output(json)
    model_commands.verify_model(terminal, model, accept)


@models.command("convert")
def models_convert(
    source: Annotated[
        str, typer.Argument(help="Name or checkpoint file.", show_default=False)
    ],
    target: Annotated[
        Path,
        typer.Argument(help="File to write.", metavar="FILE.safetensors", show_default=False),
    ],
    json: Json = False,
) -> None:  # fmt: skip
    """Write a checkpoint as safetensors: the same weights, without the optimiser's state.

    Example: csp models convert best_model.pt mine.safetensors
    """
    from flows import model_commands

    _output(json)
    model_commands.convert_model(terminal, source, target)


align_cli.add_to(app, lambda: terminal)
campaign_cli.add_to(app, lambda: terminal)
compare_cli.add_to(app, lambda: terminal)
estimate_cli.add_to(app, lambda: terminal)
evaluate_cli.add_to(app, lambda: terminal)
export_cli.add_to(app, lambda: terminal)
match_cli.add_to(app, lambda: terminal)
train_cli.add_to(app, lambda: terminal)
up_cli.add_to(app, lambda: terminal)
app.command("conformers")(conformer_cli.conformers)
app.command("synthesise")(synthetic_cli.synthesise)
app.command("dashboard")(dashboard_cli.dashboard)
app.command("verify")(trust_cli.verify)
app.command("free-energy")(trust_cli.free_energy)


def _output(json: bool, quiet: bool = False, verbose: bool = False) -> None:
    terminal.json, terminal.quiet, terminal.verbose = json, quiet or json, verbose


def main() -> None:
    """Entry point of `csp`: run a command and leave with its exit code."""
    try:
        # Set before parsing, so that a wrong option is answered in JSON too.
        terminal.json = "--json" in sys.argv[1:]
        code = app(standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # the option parser's answer to Ctrl-C
            raise CommandInterrupted
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        code = terminal.report(error)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
