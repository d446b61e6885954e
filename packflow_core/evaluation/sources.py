"""Known crystals on disk: tables in the schema of the training data, and folders of CIFs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from packflow_core.crystal.crystal import Crystal, right_handed
from packflow_core.errors import UserInputError
from packflow_core.evaluation.targets import FoundForm, Refused

MANIFEST = "manifest.csv"
MOLECULES = "molecules.parquet"

_CRYSTAL_COLUMNS = ("mol_hash", "n_mol", "cell", "numbers", "frac")
_MOLECULE_COLUMNS = ("mol_hash", "smiles")
#: Columns that name a form or its molecule, the best first; the first one that is filled counts.
_FORM_NAMES = ("csd_refcode", "refcode", "exp_info", "name", "id")
_MOLECULE_NAMES = ("refcode_families", "refcode_family", "name", "formula")
_SPLITS = ("split", "train_file_split")


def read_source(
    path: Path, split: str | None, origins: Sequence[str]
) -> tuple[list[FoundForm], list[Refused]]:
    """Known forms of one source.

    Args:
        path: a Parquet table of crystals with `molecules.parquet` beside it, or a folder of CIFs
            with `manifest.csv`, which has at least the columns file and smiles.
        split: only rows of this split; all when None.
        origins: only rows whose origin is one of these, where the source has that column.

    Returns:
        The forms in the order of the source, and what could not be read.

    Raises:
        UserInputError: the source is missing, damaged, or lacks a column.
    """
    path = path.expanduser()
    if path.is_dir():
        return _read_folder(path, split, origins)
    if path.is_file():
        return _read_table(path, split, origins)
    raise UserInputError(
        f"There are no targets at {path}; give a Parquet table of crystals, or a folder of CIFs "
        f"with a {MANIFEST}."
    )


# -- a table ----------------------------------------------------------------------------------
def _read_table(
    path: Path, split: str | None, origins: Sequence[str]
) -> tuple[list[FoundForm], list[Refused]]:
    import pyarrow.compute as pc

    beside = path.with_name(MOLECULES)
    if not beside.is_file():
        raise UserInputError(
            f"{path} has no {MOLECULES} beside it; it is needed for the SMILES of the molecules."
        )
    molecules = {
        str(row["mol_hash"]): row for row in _table(beside, _MOLECULE_COLUMNS, None).to_pylist()
    }
    keep = None
    if "origin" in _names_of(path):
        keep = pc.field("origin").isin(list(origins))
    if split is not None:
        if "split" not in _names_of(path):
            raise UserInputError(f"{path} has no column split; leave out --split.")
        chosen = pc.field("split") == split
        keep = chosen if keep is None else keep & chosen
    forms: list[FoundForm] = []
    refused: list[Refused] = []
    for row in _table(path, _CRYSTAL_COLUMNS, keep).to_pylist():
        # A database entry without a refcode names an article there, which says little in a table.
        label = _first(row, _FORM_NAMES if row.get("refcode_family") else ("id", *_FORM_NAMES))
        label = label or str(row["mol_hash"])
        molecule = molecules.get(str(row["mol_hash"]))
        if molecule is None:
            refused.append(Refused(label, f"{MOLECULES} has no molecule {row['mol_hash']}"))
            continue
        try:
            crystal = _crystal_of(row)
        except (ValueError, TypeError, np.linalg.LinAlgError) as error:
            refused.append(Refused(label, f"it is no crystal: {error}"))
            continue
        name = _first(molecule, _MOLECULE_NAMES) or str(row["mol_hash"])
        origin = str(row.get("origin") or "")
        forms.append(FoundForm(str(molecule["smiles"]), name, label, origin, crystal))
    if split is not None:
        with_form = {form.smiles for form in forms}
        refused += [
            Refused(_first(row, _MOLECULE_NAMES) or name, "the table holds no known form of it")
            for name, row in molecules.items()
            if row.get("split") == split and row["smiles"] not in with_form
        ]
    return forms, refused


def _names_of(path: Path) -> set[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise UserInputError(f"{path} cannot be read as a Parquet table ({error}).") from error


def _table(path: Path, needed: Sequence[str], keep: Any) -> Any:
    """Columns that may be of use, of the rows that `keep` selects."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    present = _names_of(path)
    if missing := [name for name in needed if name not in present]:
        raise UserInputError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}."
        )
    useful = {*needed, *_FORM_NAMES, *_MOLECULE_NAMES, "origin", "split"}
    try:
        return pq.read_table(path, columns=sorted(useful & present), filters=keep)
    except (pa.ArrowException, OSError) as error:
        raise UserInputError(f"{path} cannot be read as a Parquet table ({error}).") from error


def _crystal_of(row: dict[str, Any]) -> Crystal:
    cell = np.asarray(row["cell"], dtype=np.float64).reshape(3, 3)
    positions = np.asarray(row["frac"], dtype=np.float64).reshape(-1, 3) @ cell
    return Crystal(row["numbers"], positions, right_handed(cell), row["n_mol"])


# -- a folder ---------------------------------------------------------------------------------
def _read_folder(
    folder: Path, split: str | None, origins: Sequence[str]
) -> tuple[list[FoundForm], list[Refused]]:
    from packflow_core.crystal.cif import read_cif

    rows = _manifest(folder / MANIFEST)
    split_column = next((name for name in _SPLITS if rows and name in rows[0]), None)
    if split is not None and split_column is None:
        raise UserInputError(f"{folder / MANIFEST} has no column split; leave out --split.")
    forms: list[FoundForm] = []
    refused: list[Refused] = []
    for row in rows:
        file = row["file"] or ""
        label = _first(row, _FORM_NAMES) or Path(file).stem
        origin = row.get("origin") or ""
        if split is not None and split_column is not None and row[split_column] != split:
            continue
        if origin and origin not in origins:
            continue
        try:
            crystal = read_cif(folder / file)
        except UserInputError as error:
            refused.append(Refused(label, str(error)))
            continue
        except Exception as error:  # a parser may raise anything for a strange file
            refused.append(Refused(label, f"{file} cannot be read ({error})"))
            continue
        name = _family(row) or _first(row, ("molecule", "target"))
        forms.append(FoundForm(row["smiles"] or "", name, label, origin, crystal))
    return forms, refused


def _manifest(path: Path) -> list[dict[str, str | None]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows: list[dict[str, str | None]] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UserInputError(
            f"{path} cannot be read ({why}); a folder of CIFs needs one with the columns file and "
            "smiles."
        ) from error
    if not rows or not {"file", "smiles"} <= set(rows[0]):
        raise UserInputError(
            f"{path} must have the columns file and smiles, and a line for each CIF."
        )
    return rows


def _family(row: dict[str, str | None]) -> str:
    """Refcode family, the letters before the digits; empty without a refcode."""
    if row.get("refcode_family"):
        return row["refcode_family"] or ""
    refcode = row.get("csd_refcode") or row.get("refcode") or ""
    return refcode.rstrip("0123456789")


def _first(row: dict[str, Any], names: Sequence[str]) -> str:
    """The first of the named columns that holds a text."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip() and value.lower() != "nan":
            return value.strip()
    return ""
