"""What `csp conformers` does."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import ValidationError

from flows.commands import short
from flows.console import Terminal
from flows.run_commands import spec_from_options
from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.conformer_facts import conformer_facts
from packflow_core.chem.conformer_files import write_sdf, write_xyz
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_pool import ensemble_key, make_ensemble
from packflow_core.chem.molecule import Molecule
from packflow_core.devices import make_seats, usable_cpus
from packflow_core.errors import UserInputError
from packflow_core.spec import RunSpec
from packflow_core.stages.run_store import RUN_JSON
from packflow_core.store.atomic import atomic_path, make_folder, storage_errors
from packflow_core.store.conformer_table import CONFORMERS_FILE, write_conformers

#: Lines of the table; the files have all.
_LINES = 30
#: Columns of sentences.
_WIDTH = 100

#: Embeddings times heavy atoms from which a search takes so long that it is announced.
_LONG = 2000

#: Force fields and engines disagree: so many windows of the search go into an engine's window.
_WIDER = 2.0


def conformers(
    terminal: Terminal,
    target: str,
    given: Mapping[str, object],
    out: Path | None,
    engine: str | None,
    workers: int | None,
    device: str,
) -> None:
    """Make the conformers of a molecule, show them and write them.

    Args:
        terminal: where to say what.
        target: SMILES or target file.
        given: fields of `ConformerParams` that were named on the command line.
        out: folder of the files.
        engine: engine that relaxes the conformers again; None for none.
        workers: worker processes of the engine.
        device: where the engine computes.

    Raises:
        UserInputError: one sentence about what is wrong.
        ConformerError: the molecule cannot be embedded.
    """
    spec = spec_from_options(target, {}, [])
    molecule = Molecule.from_smiles(spec.smiles)
    params = _params(spec, given)
    folder = Path("conformers") / spec.name if out is None else out
    _check_folder(folder, molecule)
    if engine is not None:
        _check_engine(engine, workers, device)
    if params.file is None:
        make_folder(folder)  # before a long search, not after it
    ensemble = _make(terminal, molecule, params, engine)
    if engine is not None:
        ensemble = _optimised(terminal, ensemble, params, engine, workers, device)
    make_folder(folder)
    key = ensemble_key(molecule, params) if engine is None else ""
    files = _write(ensemble, folder, key)
    if terminal.json:
        terminal.document(_document(spec, params, ensemble, folder, files))
        return
    if not terminal.quiet:
        _show(terminal, spec.name, params, ensemble)
        for path in files:
            terminal.write(f"{path.suffix.lstrip('.'):<8} {short(path)}")


def _params(spec: RunSpec, given: Mapping[str, object]) -> ConformerParams:
    try:
        return ConformerParams.model_validate({**spec.conformers.model_dump(), **given})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(map(str, fault["loc"]))
        raise UserInputError(
            f"{name} = {fault['input']} is not allowed: {str(fault['msg'])[:1].lower()}"
            f"{str(fault['msg'])[1:]}."
        ) from error


def _check_folder(folder: Path, molecule: Molecule) -> None:
    """Refuse a folder whose files mean something else."""
    if (folder / RUN_JSON).exists():
        raise UserInputError(
            f"{folder} is the folder of a run, whose candidates are numbered by its own "
            "conformers; choose another with --out."
        )
    path = folder / CONFORMERS_FILE
    if path.is_file():
        try:
            held = (pq.read_schema(path).metadata or {}).get(b"smiles", b"").decode()
        except (OSError, ValueError):
            held = "something else"
        if held != molecule.smiles:
            raise UserInputError(
                f"{folder} holds the conformers of {held}; choose another folder with --out."
            )


def _check_engine(engine: str, workers: int | None, device: str) -> None:
    """Refuse an engine or device that cannot be had; an engine that the user types is trusted."""
    from packflow_core.engines import registry, trust

    trust.allow(engine)
    make_seats(workers, device, gpu=registry.engine_traits(engine).gpu)
    registry.engine_identity(engine)
    registry.fetch_engine(engine)


def _make(
    terminal: Terminal, molecule: Molecule, params: ConformerParams, engine: str | None
) -> ConformerEnsemble:
    n = params.embeddings(molecule)
    if params.file is None and n * molecule.n_heavy > _LONG and not terminal.quiet:
        terminal.say(f"Embedding {n} geometries of {molecule.formula} ...")
    if engine is not None:
        wider = _WIDER * params.window_kJ_mol
        params = params.model_copy(update={"window_kJ_mol": wider})
    return make_ensemble(molecule, params, usable_cpus())


def _optimised(
    terminal: Terminal,
    ensemble: ConformerEnsemble,
    params: ConformerParams,
    engine: str,
    workers: int | None,
    device: str,
) -> ConformerEnsemble:
    from packflow_core.engines.registry import engine_traits
    from packflow_core.relax.relax_conformers import relax_conformers
    from packflow_core.workers import WorkerPool

    seats = make_seats(workers, device, gpu=engine_traits(engine).gpu)[: len(ensemble)]
    progress = terminal.progress()
    stage = "optimise"
    progress.start(stage, len(ensemble), {})
    try:
        with WorkerPool(seats) as pool:
            return relax_conformers(
                ensemble, engine, params, pool, lambda status: progress.advance(stage, status)
            )
    finally:
        progress.finish(stage)
        progress.close()


def _write(ensemble: ConformerEnsemble, folder: Path, key: str) -> list[Path]:
    """Write all files; returns their paths."""
    paths = [folder / CONFORMERS_FILE, folder / "conformers.sdf", folder / "conformers.xyz"]
    facts = conformer_facts(ensemble)
    fields = [
        {"rmsd_A": f"{r:.4f}", "gyration_A": f"{g:.4f}", "h_bonds": int(h)}
        for r, g, h in zip(facts.rmsd, facts.gyration, facts.h_bonds, strict=True)
    ]
    with storage_errors(folder):
        write_conformers(ensemble, paths[0], key)
        with atomic_path(paths[1]) as temporary:
            write_sdf(ensemble, temporary, fields)
        with atomic_path(paths[2]) as temporary:
            write_xyz(ensemble, temporary)
    return paths


def _show(
    terminal: Terminal, name: str, params: ConformerParams, ensemble: ConformerEnsemble
) -> None:
    from rich.table import Table

    facts = conformer_facts(ensemble)
    terminal.write(f"{name}  {ensemble.molecule.smiles}")
    terminal.write(_summary(params, ensemble))
    table = Table(header_style="bold")
    titles = ("conformer", "energy kJ/mol", "RMSD Å", "gyration Å", "H bonds", "times found")
    for title in titles:
        table.add_column(title, justify="right")
    for k in range(min(len(ensemble), _LINES)):
        energy = ensemble.energies[k]
        table.add_row(
            str(k),
            "" if math.isnan(energy) else f"{energy:.1f}",
            f"{facts.rmsd[k]:.2f}",
            f"{facts.gyration[k]:.2f}",
            str(facts.h_bonds[k]),
            "" if ensemble.found is None else str(ensemble.found[k]),
        )
    terminal.console().print(table)
    if len(ensemble) > _LINES:
        terminal.write(f"{len(ensemble) - _LINES} more are in the files.")
    for note in ensemble.notes:
        terminal.write(textwrap.fill(note, _WIDTH))


def _summary(params: ConformerParams, ensemble: ConformerEnsemble) -> str:
    """How many there are and what became of the others."""
    many = f"{len(ensemble)} conformer{'' if len(ensemble) == 1 else 's'}"
    counts = ensemble.counts
    if counts is None:
        return f"{many} of the file {ensemble.method}, in its order."
    left_out = {
        "of wrong stereochemistry or bonds": counts.wrong,
        f"above {params.window_kJ_mol:g} kJ/mol": counts.outside,
        "duplicates": counts.duplicates,
        f"beyond the lowest {params.max_conformers}": counts.beyond,
    }
    told = ", ".join(f"{n} {what}" for what, n in left_out.items() if n)
    return (
        f"{many} ({ensemble.method}) of {counts.embedded} geometries"
        f"{f'; left out: {told}' if told else ''}."
    )


def _document(
    spec: RunSpec,
    params: ConformerParams,
    ensemble: ConformerEnsemble,
    folder: Path,
    files: list[Path],
) -> dict[str, Any]:
    facts = conformer_facts(ensemble)
    return {
        "target": spec.name,
        "smiles": ensemble.molecule.smiles,
        "folder": str(folder.resolve()),
        "files": [str(path) for path in files],
        "method": ensemble.method,
        "digest": ensemble.digest,
        "params": params.model_dump(mode="json"),
        "counts": None if ensemble.counts is None else vars(ensemble.counts),
        "notes": list(ensemble.notes),
        "conformers": [
            {
                "conformer": k,
                "energy_kJ_mol": None if math.isnan(e) else float(e),
                "rmsd_A": float(facts.rmsd[k]),
                "gyration_A": float(facts.gyration[k]),
                "h_bonds": int(facts.h_bonds[k]),
                "found": None if ensemble.found is None else int(ensemble.found[k]),
            }
            for k, e in enumerate(ensemble.energies)
        ],
    }
