"""Conformers in files: those that a user brings, and those that we write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from packflow_core.chem.conformer_atoms import match_atoms
from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.elements import symbol
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.errors import UserInputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Name of the energy in the files that we write and, where every frame has it, read.
ENERGY = "energy_kJ_mol"

_SDF = (".sdf", ".sd", ".mol", ".mdl")

#: Atomic numbers [n], positions [n, 3] Å and, where the file tells, energy in kJ/mol.
_Frame = tuple[IntArray, FloatArray, float | None]


def read_conformers(path: str | Path, molecule: Molecule) -> ConformerEnsemble:
    """Conformers of a molecule from a file, one per frame, in the order of the file.

    Nothing is relaxed, pruned or left out, so a conformer's number is that of its frame. Atoms may
    come in any order: who is who is found from the bonds.

    Args:
        path: .sdf or .mol, .xyz with one frame or many, or any other file that ASE reads. Energies
            are read from the field `energy_kJ_mol` of an SDF record or an extended XYZ comment.
        molecule: the molecule; all its hydrogens must be in the file.

    Raises:
        UserInputError: the file is missing or unreadable, or a frame is another molecule or
            another stereoisomer.
    """
    name = f"The conformer file '{path}'"
    frames = _read(Path(path), name)
    found: list[FloatArray] = []
    for k, (numbers, positions, _) in enumerate(frames, start=1):
        where = f"{name}, frame {k}," if len(frames) > 1 else name
        found.append(_matched(molecule, numbers, positions, where))
    given = np.stack(found)
    given -= given[:, : molecule.n_heavy].mean(axis=1, keepdims=True)
    told = [energy for _, _, energy in frames if energy is not None]
    energies = np.full(len(frames), np.nan)
    if len(told) == len(frames):
        energies = np.array(told) - min(told)
    return ConformerEnsemble(molecule, given, energies, Path(path).name)


def write_xyz(ensemble: ConformerEnsemble, path: Path) -> None:
    """Write an ensemble as extended XYZ (Å), one frame per conformer."""
    names = [symbol(int(number)) for number in ensemble.molecule.numbers_h]
    lines: list[str] = []
    for k, positions in enumerate(ensemble.positions):
        energy = float(ensemble.energies[k])
        told = "" if np.isnan(energy) else f" {ENERGY}={energy:.4f}"
        lines += [
            str(len(names)),
            f'Properties=species:S:1:pos:R:3 conformer={k}{told} pbc="F F F"',
        ]
        lines += [
            f"{name:<2} {x:14.8f} {y:14.8f} {z:14.8f}"
            for name, (x, y, z) in zip(names, positions, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sdf(
    ensemble: ConformerEnsemble, path: Path, properties: list[dict[str, Any]] | None = None
) -> None:
    """Write an ensemble as SDF with all hydrogens; energies are data fields.

    Args:
        ensemble: the conformers.
        path: of the file.
        properties: further data fields of each conformer.
    """
    with Chem.SDWriter(str(path)) as writer:
        for k, positions in enumerate(ensemble.positions):
            mol = Chem.Mol(ensemble.molecule.rdmol_h)
            mol.RemoveAllConformers()
            conformer = Chem.Conformer(mol.GetNumAtoms())
            conformer.SetPositions(np.ascontiguousarray(positions))
            conformer.Set3D(True)
            mol.AddConformer(conformer)
            mol.SetProp("_Name", f"conformer {k}")
            mol.SetIntProp("conformer", k)
            mol.SetProp("smiles", ensemble.molecule.smiles)
            mol.SetProp("method", ensemble.method)
            if not np.isnan(ensemble.energies[k]):
                mol.SetProp(ENERGY, f"{ensemble.energies[k]:.4f}")
            for field, value in (properties[k] if properties else {}).items():
                mol.SetProp(field, str(value))
            writer.write(mol)


def _read(path: Path, name: str) -> list[_Frame]:
    """Frames of a file.

    Raises:
        UserInputError: it is missing, unreadable or empty; `name` is how the user calls it.
    """
    if not path.is_file():
        raise UserInputError(f"{name} does not exist; check the path.")
    try:
        frames = list(_from_sdf(path) if path.suffix.lower() in _SDF else _from_ase(path))
    except Exception as error:  # every reader of ASE has errors of its own
        raise UserInputError(
            f"{name} cannot be read ({type(error).__name__}: {error}); give an .xyz or .sdf file."
        ) from error
    if not frames:
        raise UserInputError(f"{name} holds no molecule; give an .xyz or .sdf file.")
    return frames


def _from_sdf(path: Path) -> Iterator[_Frame]:
    with rdBase.BlockLogs():
        # Atoms and places count; bonds are found from them, as in files that have none.
        supplier = Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)
        for k, mol in enumerate(supplier, start=1):
            if mol is None:
                raise ValueError(f"record {k} is damaged")
            numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
            energy = float(mol.GetProp(ENERGY)) if mol.HasProp(ENERGY) else None
            yield numbers, np.array(mol.GetConformer().GetPositions()), energy


def _from_ase(path: Path) -> Iterator[_Frame]:
    from ase.io import read

    found = read(str(path), index=":")
    for atoms in found if isinstance(found, list) else [found]:
        energy = atoms.info.get(ENERGY)
        yield (
            np.asarray(atoms.numbers, dtype=np.int64),
            np.asarray(atoms.positions, dtype=np.float64),
            None if energy is None else float(energy),
        )


def _matched(
    molecule: Molecule, numbers: IntArray, positions: FloatArray, where: str
) -> FloatArray:
    """Positions [n_atoms, 3] Å in the order of the molecule; `where` names them for the user.

    Raises:
        UserInputError: they are not finite, of another molecule, or of another stereoisomer.
    """
    if not np.isfinite(positions).all():
        raise UserInputError(f"{where} has coordinates that are not finite; mend the file.")
    if len(numbers) == molecule.n_heavy < molecule.n_atoms and (numbers > 1).all():
        raise UserInputError(
            f"{where} has no hydrogens; give all {molecule.n_atoms} atoms of '{molecule.smiles}'."
        )
    order = match_atoms(molecule, numbers, positions)
    if order is None:
        raise UserInputError(
            f"{where} does not hold the molecule '{molecule.smiles}' with all its "
            f"{molecule.n_atoms} atoms, bonded as they should be; check file and SMILES."
        )
    if stereo_of(molecule).count_flipped(positions[order]):
        raise UserInputError(
            f"{where} has another stereochemistry than '{molecule.smiles}'; mend one of the two."
        )
    return positions[order]
