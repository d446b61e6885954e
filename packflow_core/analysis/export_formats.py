"""The best structures of a ranking as files for other programs.

Every file is whole or not there. A list of what an export wrote, `export.json`, stays beside it;
the next export into the same folder removes those files first, so that it never mixes two rankings.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packflow_core.analysis.export import (
    cif_comments,
    remove_numbered,
    structure_name,
    write_ranked_csv,
    write_structures,
)
from packflow_core.analysis.symmetrised import symmetrise
from packflow_core.analysis.symmetry import SYMPREC_LADDER
from packflow_core.crystal.cif import crystal_to_cif_text
from packflow_core.crystal.symmetric_cif import symmetric_cif_text
from packflow_core.errors import UserInputError
from packflow_core.store.atomic import atomic_path, write_bytes, write_json
from packflow_core.store.rows import Row, crystal_of

if TYPE_CHECKING:
    from ase import Atoms

logger = logging.getLogger(__name__)

MANIFEST = "export.json"
RANKED_CSV = "ranked.csv"
SYMMETRISED = "symmetrised"
EXTXYZ = "structures.extxyz"
ASE_DB = "structures.db"
MERCURY = "mercury.cif"

#: Columns of a row that go along into formats that hold more than a structure.
_FACTS = (
    "candidate_id", "rank", "lattice_energy_rel_kJ_mol", "lattice_energy_kJ_mol", "density_g_cm3",
    "space_group", "space_group_number", "z", "z_prime", "cluster", "cluster_size", "match_rmsd_A",
    "match_n", "matches_reference", "engine", "target", "method",
)  # fmt: skip


#: Names that ASE's database keeps for itself.
_DB_WORDS = frozenset({"id", "energy", "volume", "mass", "charge", "formula", "natoms", "age"})


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        structures: their number.
        files: paths, in the order of the formats.
        without_symmetry: identities of structures whose symmetrised CIF had to be P1.
    """

    structures: int
    files: tuple[Path, ...]
    without_symmetry: tuple[str, ...] = ()


def select_structures(
    rows: Sequence[Row],
    *,
    top: int | None = None,
    window_kJ_mol: float | None = None,
    duplicates: bool = False,
) -> list[Row]:
    """The ranked rows worth exporting, best first.

    Args:
        rows: of the rank stage, any order.
        top: at most this many.
        window_kJ_mol: relative lattice energy up to which a structure counts.
        duplicates: duplicates too, not only the representatives of clusters.
    """
    ranked = sorted((r for r in rows if r.get("rank") is not None), key=lambda r: int(r["rank"]))
    if not duplicates:
        ranked = [row for row in ranked if row.get("representative", True)]
    if window_kJ_mol is not None:
        ranked = [row for row in ranked if float(row["lattice_energy_rel_kJ_mol"]) <= window_kJ_mol]
    return ranked if top is None else ranked[:top]


def parse_formats(texts: Iterable[str]) -> tuple[str, ...]:
    """Formats of a user's list such as ``cif,extxyz``, each once; ``all`` stands for all.

    Raises:
        UserInputError: an unknown format.
    """
    names = [name.strip().lower() for text in texts for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS and name != "all"]
    if unknown or not names:
        what = f"'{unknown[0]}' is no format" if unknown else "No format is given"
        raise UserInputError(f"{what}; formats are {', '.join(FORMATS)} and all.")
    chosen = list(FORMATS) if "all" in names else names
    return tuple(dict.fromkeys(chosen))


def write_export(
    rows: Sequence[Row],
    folder: Path,
    formats: Sequence[str] = ("cif",),
    symprec: float = SYMPREC_LADDER[0],
) -> Exported:
    """Write structures in every format asked for, and their table `ranked.csv`.

    Args:
        rows: of `select_structures`.
        folder: exists.
        formats: of `FORMATS`.
        symprec: tolerance of the symmetry, Å; a row that tells its own (`symprec_A`) uses that.

    Raises:
        OSError: a file cannot be written.
    """
    _remove_earlier(folder)
    paths: list[Path] = []
    plain: list[str] = []
    for name in formats:
        paths += FORMATS[name](rows, folder, symprec, plain)
    with atomic_path(folder / RANKED_CSV) as temporary:
        write_ranked_csv(rows, temporary)
    paths.append(folder / RANKED_CSV)
    content = {
        "structures": len(rows),
        "formats": list(formats),
        "files": [str(path.relative_to(folder)) for path in paths],
        "without_symmetry": list(dict.fromkeys(plain)),
    }
    write_json(folder / MANIFEST, content)
    return Exported(len(rows), tuple(paths), tuple(dict.fromkeys(plain)))


def symmetrised_cif_text(row: Row, symprec: float) -> tuple[str, bool]:
    """CIF of a row's crystal with its symmetry made exact, and whether that worked.

    Where the operations do not give the crystal back, the text is the P1 CIF.
    """
    name = structure_name(row)
    crystal = crystal_of(row)
    found = symmetrise(crystal, float(row.get("symprec_A") or symprec))
    comments = cif_comments(row)
    if found is None:
        return crystal_to_cif_text(crystal, name, comments), False
    comments["Z'"] = f"{found.z_prime:g}"
    comments["tolerance of the symmetry / Angstrom"] = f"{found.symprec:g}"
    comments["RMS shift of atoms to exact symmetry / Angstrom"] = f"{found.rmsd_A:.4f}"
    return symmetric_cif_text(found, name, comments), True


def to_atoms(row: Row) -> Atoms:
    """ASE Atoms of a row, with its energy in eV and, in `info`, what else is known of it."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = crystal_of(row).to_ase()
    atoms.info.update({name: row[name] for name in _FACTS if row.get(name) is not None})
    if row.get("energy_eV") is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=float(row["energy_eV"]))
    return atoms


# -- formats: rows, folder, symprec, identities that stayed P1 -> paths ---------------------------
def _cif(rows: Sequence[Row], folder: Path, _symprec: float, _plain: list[str]) -> list[Path]:
    return write_structures(rows, folder, top=len(rows), representatives_only=False)


def _symmetrised(rows: Sequence[Row], folder: Path, symprec: float, plain: list[str]) -> list[Path]:
    target = folder / SYMMETRISED
    target.mkdir(exist_ok=True)
    remove_numbered(target)  # also those of an export that was killed
    paths = []
    for row in rows:
        text, worked = symmetrised_cif_text(row, symprec)
        if not worked:
            plain.append(str(row["candidate_id"]))
        path = target / f"{structure_name(row)}.cif"
        write_bytes(path, text.encode("ascii"))
        paths.append(path)
    return paths


def _mercury(rows: Sequence[Row], folder: Path, symprec: float, plain: list[str]) -> list[Path]:
    with (
        atomic_path(folder / MERCURY) as temporary,
        temporary.open("w", encoding="ascii", newline="\n") as file,
    ):
        for row in rows:
            text, worked = symmetrised_cif_text(row, symprec)
            if not worked:
                plain.append(str(row["candidate_id"]))
            file.write(text + "\n")
    return [folder / MERCURY]


def _extxyz(rows: Sequence[Row], folder: Path, _symprec: float, _plain: list[str]) -> list[Path]:
    from ase.io import write

    with atomic_path(folder / EXTXYZ) as temporary:
        write(temporary, [to_atoms(row) for row in rows], format="extxyz")
    return [folder / EXTXYZ]


def _ase_db(rows: Sequence[Row], folder: Path, _symprec: float, _plain: list[str]) -> list[Path]:
    from ase.db import connect

    with (
        atomic_path(folder / ASE_DB) as temporary,
        connect(temporary, type="db", append=False, use_lock_file=False) as database,
    ):
        for row in rows:
            atoms = to_atoms(row)
            # The database's own words for atoms may not be keys; `data` has all facts.
            pairs = {name: value for name, value in atoms.info.items() if name not in _DB_WORDS}
            database.write(atoms, key_value_pairs=pairs, data=dict(atoms.info))
    return [folder / ASE_DB]


#: Formats by name.
FORMATS: dict[str, Callable[[Sequence[Row], Path, float, list[str]], list[Path]]] = {
    "cif": _cif,
    "symmetrised-cif": _symmetrised,
    "extxyz": _extxyz,
    "ase": _ase_db,
    "mercury": _mercury,
}


def _remove_earlier(folder: Path) -> None:
    """Remove what an earlier export listed; a list that is no list removes nothing."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        names = [Path(name) for name in content["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        # Nothing outside of the folder, whatever the list says.
        if not name.is_absolute() and ".." not in name.parts:
            (folder / name).unlink(missing_ok=True)
