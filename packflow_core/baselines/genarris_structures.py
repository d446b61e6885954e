"""Structures of Genarris as crystals of this project: order of atoms, hand, whole molecules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.symmetry import find_symmetry
from packflow_core.baselines.genarris_output import Entry, read_config, read_entries
from packflow_core.baselines.genarris_settings import PRESS, read_request
from packflow_core.chem.conformer_atoms import match_atoms
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import Stereo, stereo_of
from packflow_core.crystal.crystal import Crystal, right_handed
from packflow_core.crystal.lattice import heights
from packflow_core.crystal.unwrap import unwrap_molecules
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason, Status

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Molecules are rigid copies of the input; one further from it than this RMSD (Å) is damaged.
#: The press itself refuses 0.1 Å, and six decimals are written.
_MAX_MISFIT = 0.1
_MIN_HEIGHT = 1.0
#: Genarris places with six decimals and presses in double precision.
_SYMPREC = 0.01


@dataclass(frozen=True, eq=False)
class GenarrisStructure:
    """One structure that Genarris made, or what is wrong with it.

    Attributes:
        original_id: Genarris' id, which repeats between runs; see `namespaced`.
        method: "genarris-press" where it went through the press, else "genarris-plain".
        z: molecules per cell that were asked for.
        crystal: atoms in the order of `Molecule`, hydrogens included, molecules whole and the
            cell right-handed; None where there is none.
        attempted_space_group: the group in which the molecules were placed (the group that spglib
            found then, where that is all that is left).
        space_group: the group that spglib finds now, None where it finds none.
        press: "converged" or "unconverged"; None for one that was not pressed.
        mirrored: molecules that are mirror images of the conformer.
        misfit_A: largest RMSD of a molecule from the conformer, Å.
        status: ok, rejected or failed.
        reason: why it is not ok.
        detail: the reason in words, or a remark on an ok structure.
    """

    original_id: str
    method: Literal["genarris-plain", "genarris-press"]
    z: int
    crystal: Crystal | None = None
    attempted_space_group: int | None = None
    space_group: int | None = None
    press: str | None = None
    mirrored: int = 0
    misfit_A: float = float("nan")
    status: Status = Status.OK
    reason: Reason = Reason.NONE
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether later stages can go on with it."""
        return self.status == Status.OK

    def namespaced(self, namespace: str) -> str:
        """The id with a prefix, for ids are the same in every run of one seed and rank count."""
        return f"{namespace}-z{self.z}-{self.original_id}"


@dataclass(frozen=True, eq=False)
class _Reference:
    """What every molecule of a run is compared with; all in the order of `Molecule`."""

    molecule: Molecule
    order: IntArray
    file_numbers: IntArray
    positions: FloatArray
    stereo: Stereo


def read_structures(
    folder: str | Path, molecule: Molecule | None = None
) -> list[GenarrisStructure]:
    """All structures that a run left, complete or not, in a fixed order.

    None is dropped: one that is malformed, or that the press gave up, comes without or with its
    crystal and says why. Of a run with the press that did not end, structures which the press has
    not reached come as `genarris-plain`, for that is what they are.

    Where the SMILES fixes the hand of the molecule, a crystal of its mirror images alone is turned
    into its own mirror image; one of both hands is rejected.

    Args:
        folder: of a run, or one that somebody ran by hand.
        molecule: the molecule; None for the one that `write_inputs` recorded.

    Raises:
        UserInputError: the molecule or Z of the folder is not known, or it is another molecule.
    """
    path = Path(folder)
    request = read_request(path)
    asked = read_config(path)
    z = request.z if request is not None else asked.z
    if molecule is None and request is not None:
        molecule = Molecule.from_smiles(request.smiles)
    if molecule is None or z is None:
        raise UserInputError(
            f"The folder '{path}' does not tell the molecule and Z of its run; give the folder "
            "of a run of Genarris with its ui.conf."
        )
    reference = _reference(path / asked.molecule_file, molecule)
    return [_structure(entry, z, reference) for entry in read_entries(path)]


def _reference(path: Path, molecule: Molecule) -> _Reference:
    """The molecule file of a run, put into our order.

    Raises:
        UserInputError: the file is missing or holds another molecule.
    """
    from ase.io import read

    try:
        atoms = read(str(path), index=0)
    except Exception as error:  # every reader of ASE has errors of its own
        raise UserInputError(
            f"The molecule of the run cannot be read from '{path}' ({type(error).__name__}); keep "
            "the input of Genarris beside its output."
        ) from error
    numbers = np.asarray(atoms.numbers, dtype=np.int64)
    positions = np.asarray(atoms.positions, dtype=np.float64)
    order = match_atoms(molecule, numbers, positions)
    if order is None:
        raise UserInputError(
            f"'{path}' holds another molecule than '{molecule.smiles}'; read the run with the "
            "molecule that it was made for."
        )
    return _Reference(molecule, order, numbers, positions[order], stereo_of(molecule))


def _structure(entry: Entry, z: int, reference: _Reference) -> GenarrisStructure:
    """One entry, checked and put into our order."""
    out = GenarrisStructure(
        original_id=entry.id,
        method="genarris-press" if entry.task == PRESS else "genarris-plain",
        z=z,
        attempted_space_group=entry.attempted_group or entry.recorded_group,
        press=entry.press,
    )
    molecules, out = _molecules(entry, out, reference)
    if molecules is None:
        return out
    cell = right_handed(entry.cell)
    proper, improper = _misfits(molecules, reference.positions)
    if np.minimum(proper, improper).max() > _MAX_MISFIT:
        # A molecule that was folded into the cell is whole again after a walk along its bonds.
        molecules = _whole(molecules, cell, reference.molecule)
        proper, improper = _misfits(molecules, reference.positions)
    misfit = float(np.minimum(proper, improper).max())
    numbers = np.tile(reference.molecule.numbers_h, z)
    out = replace(
        out,
        crystal=Crystal(numbers, molecules.reshape(-1, 3), cell, z),
        misfit_A=misfit,
        # A planar molecule fits both ways, and rounding must not make it a mirror image.
        mirrored=int((improper < proper - 1e-3).sum()),
        detail="the rigid press did not converge" if entry.press == "unconverged" else "",
    )
    if misfit > _MAX_MISFIT:
        detail = f"a molecule is {misfit:.2f} Å (RMSD) from its conformer"
        return _refused(out, Status.REJECTED, Reason.BROKEN_MOLECULE, detail)
    out = _in_one_hand(out, molecules, reference.stereo)
    if out.crystal is not None:
        found = find_symmetry(out.crystal, _SYMPREC)
        out = replace(out, space_group=found.number if found is not None else None)
    if entry.error:
        return _refused(out, Status.FAILED, Reason.ENGINE, entry.error)
    return out


def _molecules(
    entry: Entry, out: GenarrisStructure, reference: _Reference
) -> tuple[FloatArray | None, GenarrisStructure]:
    """Molecules [z, n, 3] Å in our order, or None and the structure that says what is wrong."""
    n, z = len(reference.order), out.z
    if entry.error and not len(entry.numbers):
        return None, _refused(out, Status.FAILED, Reason.ENGINE, entry.error)
    if not np.array_equal(entry.numbers, np.tile(reference.file_numbers, z)):
        detail = f"{len(entry.numbers)} atoms that are not {z} molecules of {n}"
        return None, _refused(out, Status.FAILED, Reason.BROKEN_MOLECULE, detail)
    if not (np.isfinite(entry.positions).all() and np.isfinite(entry.cell).all()):
        detail = "NaN or infinity among the positions or in the cell"
        return None, _refused(out, Status.FAILED, Reason.NAN, detail)
    volume = abs(float(np.linalg.det(entry.cell)))
    if volume < _MIN_HEIGHT**3 or heights(entry.cell).min() < _MIN_HEIGHT:
        detail = f"the cell is flat (volume {volume:.2f} Å3)"
        return None, _refused(out, Status.REJECTED, Reason.BAD_CELL, detail)
    return entry.positions.reshape(z, n, 3)[:, reference.order], out


def _in_one_hand(
    out: GenarrisStructure, molecules: FloatArray, stereo: Stereo
) -> GenarrisStructure:
    """The crystal with all molecules [z, n, 3] of the hand that the SMILES fixes, or rejected."""
    if stereo.mirror_allowed or out.crystal is None:
        return out
    flipped = np.array([stereo.count_flipped(m) > 0 for m in molecules])
    if flipped.all():
        remarks = [out.detail, "mirror image taken"]
        return replace(
            out,
            crystal=out.crystal.with_positions(-out.crystal.positions),
            mirrored=out.z - out.mirrored,
            detail="; ".join(filter(None, remarks)),
        )
    if flipped.any():
        detail = f"{int(flipped.sum())} of {out.z} molecules have the other hand"
        return _refused(out, Status.REJECTED, Reason.STEREO, detail)
    return out


def _refused(
    out: GenarrisStructure, status: Status, reason: Reason, detail: str
) -> GenarrisStructure:
    return replace(out, status=status, reason=reason, detail=detail)


def _misfits(molecules: FloatArray, conformer: FloatArray) -> tuple[FloatArray, FloatArray]:
    """RMSD [z] Å of molecules [z, n, 3] from a conformer [n, 3] and from its mirror image."""
    a = molecules - molecules.mean(axis=1, keepdims=True)
    b = conformer - conformer.mean(axis=0)
    covariance = np.einsum("zai,aj->zij", a, b)
    s = np.linalg.svd(covariance, compute_uv=False)
    sign = np.where(np.linalg.det(covariance) < 0, -1.0, 1.0)
    total = np.einsum("zai,zai->z", a, a) + np.einsum("ai,ai->", b, b)
    pair = s[:, 0] + s[:, 1]
    proper = np.sqrt(np.maximum(total - 2 * (pair + sign * s[:, 2]), 0) / len(b))
    improper = np.sqrt(np.maximum(total - 2 * (pair - sign * s[:, 2]), 0) / len(b))
    return np.asarray(proper), np.asarray(improper)


def _whole(molecules: FloatArray, cell: FloatArray, molecule: Molecule) -> FloatArray:
    """Molecules [z, n, 3] made whole along the molecule's bonds."""
    z, n, _ = molecules.shape
    bonds = (molecule.bonds_h[None] + n * np.arange(z)[:, None, None]).reshape(-1, 2)
    frac = molecules.reshape(-1, 3) @ np.linalg.inv(cell)
    return (unwrap_molecules(frac, bonds) @ cell).reshape(z, n, 3)
