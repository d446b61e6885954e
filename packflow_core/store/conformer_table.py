"""The pool of conformers as a Parquet file: for people, and for processes that share a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.chem.conformer_ensemble import ConformerEnsemble, SearchCounts
from packflow_core.chem.conformer_facts import conformer_facts
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_pool import ensemble_key, make_ensemble
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import RunFailedError
from packflow_core.store.atomic import atomic_path, storage_errors

#: File of a pool, in the folder of its run.
CONFORMERS_FILE = "conformers.parquet"

_F, _I = pa.float64(), pa.int64()


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    told = {"description": description, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, metadata=told)


SCHEMA = pa.schema(
    [
        _field("conformer", _I, "place in the pool, from 0"),
        _field("energy_kJ_mol", _F, "energy above the lowest conformer", "kJ/mol"),
        _field("rmsd_A", _F, "RMSD of the heavy atoms from the lowest conformer", "Å"),
        _field("gyration_A", _F, "radius of gyration, weighted by mass", "Å"),
        _field("h_bonds", _I, "hydrogen bonds inside the molecule"),
        _field("found", _I, "embeddings that gave the conformer"),
        _field("numbers", pa.list_(_I), "atomic numbers, heavy atoms before hydrogens"),
        _field("positions", pa.list_(_F), "Cartesian coordinates, 3 per atom", "Å"),
    ]
)


def write_conformers(ensemble: ConformerEnsemble, path: Path, key: str = "") -> None:
    """Write an ensemble, all or nothing; its coordinates keep every digit.

    Args:
        ensemble: the conformers.
        path: of the file.
        key: of the settings that gave it, see `ensemble_key`.

    Raises:
        StorageFullError: no space left.
        UserInputError: the folder cannot be written.
    """
    facts = conformer_facts(ensemble)
    k = len(ensemble)
    told = {
        "smiles": ensemble.molecule.smiles,
        "method": ensemble.method,
        "counts": json.dumps(asdict(ensemble.counts) if ensemble.counts else None),
        "notes": json.dumps(ensemble.notes),
        "rdkit": metadata.version("rdkit"),
        "digest": ensemble.digest,
        "key": key,
    }
    columns: list[Any] = [
        np.arange(k),
        pa.array(ensemble.energies, _F, from_pandas=True),
        facts.rmsd,
        facts.gyration,
        facts.h_bonds,
        pa.nulls(k, _I) if ensemble.found is None else ensemble.found,
        [ensemble.molecule.numbers_h.tolist()] * k,
        ensemble.positions.reshape(k, -1).tolist(),
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata(told))
    with storage_errors(path.parent), atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_conformer_table(path: Path) -> ConformerEnsemble:
    """The ensemble that `write_conformers` wrote, bit for bit; read once per process.

    Raises:
        RunFailedError: the file is missing or damaged.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise RunFailedError(
            f"The pool of conformers {path} is missing or damaged; remove it, and the next run "
            "on this folder makes it again."
        ) from error


def stored_key(path: Path) -> str | None:
    """Key of the settings that gave a stored pool; None where there is no readable file."""
    try:
        found = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return str(found.get(b"key", b"").decode())


def stored_ensemble(
    folder: Path,
    molecule: Molecule,
    params: ConformerParams,
    key: str | None = None,
    threads: int = 1,
) -> ConformerEnsemble:
    """The pool of a run: that of its folder or, where there is none, made now and kept there.

    A pool that was made once is taken, whatever version of RDKit is installed meanwhile, so a
    conformer's number means the same in all rows of a run.

    Args:
        folder: the run's folder.
        molecule: the molecule.
        params: settings; a pool of other settings is replaced.
        key: of molecule and settings where it is known, see `ensemble_key`; a file of conformers
            need not be there any more then, once the pool is.
        threads: for the search; 0: one per processor.

    Raises:
        ConformerError: the search found nothing.
        UserInputError: a file of conformers cannot be read, or the folder cannot be written.
    """
    path = folder / CONFORMERS_FILE
    key = ensemble_key(molecule, params) if key is None else key
    if stored_key(path) != key:
        write_conformers(make_ensemble(molecule, params, threads), path, key)
    return read_conformer_table(path)


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int) -> ConformerEnsemble:
    table = pq.read_table(path)
    told = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    molecule = Molecule.from_smiles(told["smiles"])
    positions = table["positions"].combine_chunks().flatten().to_numpy()
    counts = json.loads(told["counts"])
    found = table["found"]
    return ConformerEnsemble(
        molecule=molecule,
        positions=np.array(positions).reshape(len(table), -1, 3),
        energies=np.array(table["energy_kJ_mol"].to_numpy(), dtype=np.float64),
        method=told["method"],
        found=None if found.null_count else found.to_numpy(),
        counts=None if counts is None else SearchCounts(**counts),
        notes=tuple(json.loads(told["notes"])),
    )
