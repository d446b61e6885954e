"""Training crystals: read once from Parquet tables, kept as compact heavy-atom arrays.

Input tables (one row a crystal, one row a molecule) have the columns listed in `CRYSTAL_COLUMNS`
and `MOLECULE_COLUMNS`; `docs/training.md` describes them. The result of `prepare` is a single
`.npz` file that travels to any machine.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rdkit import Chem

from packflow_core.chem.elements import SUPPORTED_NUMBERS
from packflow_core.chem.features import MolecularGraph, molecular_graph
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.lattice import cell_to_parameters, niggli_cell, standard_frame
from packflow_core.errors import UserInputError
from packflow_core.model.prior import expected_volume, harmonic_factor

log = logging.getLogger(__name__)

CRYSTAL_COLUMNS = ["mol_hash", "n_mol", "n_atoms_mol", "erel_kjmol", "cell", "numbers", "frac"]
MOLECULE_COLUMNS = ["mol_hash", "smiles", "split", "numbers", "bonds"]
#: Cell angles outside this range (degrees, after Niggli reduction) are left out: the lattice map
#: ends at 60 and 120 degrees.
ANGLE_RANGE = (61.0, 119.0)


@dataclass
class TrainingSet:
    """Crystals of many molecules, heavy atoms only, in the frame of `standard_frame`.

    Attributes:
        smiles: [m] canonical SMILES.
        graphs: [m] one-molecule graphs.
        factors: [m] harmonic factors [n, n] of the noise.
        molecule_volumes: [m] expected volume of one molecule in Å^3.
        molecule: [c] molecule index of each crystal.
        z: [c] molecules per cell.
        cells: [c, 3, 3] Å.
        erel: [c] energy above the minimum of its landscape, kJ/mol (NaN where unknown).
        offsets: [c + 1] first atom of each crystal in `positions`.
        positions: [atoms, 3] Å, molecule by molecule in the order of `graphs`, molecules whole.
        fixed_weights: [c] sampling probabilities instead of those of `weights`; None for those.
    """

    smiles: list[str]
    graphs: list[MolecularGraph]
    factors: list[NDArray[np.float64]]
    molecule_volumes: NDArray[np.float64]
    molecule: NDArray[np.int64]
    z: NDArray[np.int64]
    cells: NDArray[np.float32]
    erel: NDArray[np.float32]
    offsets: NDArray[np.int64]
    positions: NDArray[np.float32]
    fixed_weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.molecule)

    def crystal(self, index: int) -> NDArray[np.float64]:
        """Coordinates [z, n, 3] in Å of one crystal."""
        x = self.positions[self.offsets[index] : self.offsets[index + 1]]
        return x.reshape(self.z[index], -1, 3).astype(np.float64)

    def sizes(self) -> NDArray[np.int64]:
        """[c] heavy atoms per cell."""
        return np.diff(self.offsets)

    def weights(self, *, cap: int = 200, temperature: float = 6.0) -> NDArray[np.float64]:
        """[c] sampling probabilities.

        A molecule is drawn with weight sqrt(min(crystals, cap)), so that large landscapes do not
        drown the rest; inside a molecule a crystal has weight exp(-erel / temperature), with the
        temperature in kJ/mol, and 1 where the energy is unknown. Sets of several folders have
        `fixed_weights`, which count instead.
        """
        if self.fixed_weights is not None:
            return self.fixed_weights
        inside = np.exp(-np.nan_to_num(self.erel.astype(np.float64)) / temperature)
        counts = np.bincount(self.molecule, minlength=len(self.smiles))
        totals = np.bincount(self.molecule, weights=inside, minlength=len(self.smiles))
        molecule_weight = np.sqrt(np.minimum(counts, cap))
        w = inside / totals[self.molecule] * molecule_weight[self.molecule]
        return np.asarray(w / w.sum())

    def save(self, path: Path) -> None:
        """Write the compact file."""
        np.savez_compressed(
            path, smiles=np.array(self.smiles), molecule=self.molecule, z=self.z,
            cells=self.cells, erel=self.erel, offsets=self.offsets, positions=self.positions,
        )  # fmt: skip

    @classmethod
    def of_molecules(cls, smiles: Sequence[str]) -> TrainingSet:
        """A set that knows molecules and no crystal of them.

        Args:
            smiles: canonical SMILES.
        """
        return cls(
            smiles=list(smiles),
            **_molecule_data(list(smiles)),
            molecule=np.zeros(0, dtype=np.int64),
            z=np.zeros(0, dtype=np.int64),
            cells=np.zeros((0, 3, 3), dtype=np.float32),
            erel=np.zeros(0, dtype=np.float32),
            offsets=np.zeros(1, dtype=np.int64),
            positions=np.zeros((0, 3), dtype=np.float32),
        )

    @classmethod
    def load(cls, path: Path) -> TrainingSet:
        """Read a file written by `save`.

        Raises:
            UserInputError: missing or not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as f:
                data = {name: f[name] for name in f.files}
            smiles = [str(s) for s in data.pop("smiles")]
            return cls(smiles=smiles, **_molecule_data(smiles), **data)
        except (OSError, KeyError, ValueError) as error:
            raise UserInputError(
                f"{path} is not a training set ({error}); make one with 'csp train --prepare'."
            ) from error


def _molecule_data(smiles: list[str]) -> dict[str, Any]:
    molecules = [Molecule.from_smiles(s) for s in smiles]
    return {
        "graphs": [molecular_graph(m) for m in molecules],
        "factors": [harmonic_factor(m.bonds, m.n_heavy) for m in molecules],
        "molecule_volumes": np.array(
            [expected_volume(m.numbers, int(m.hydrogen_counts.sum())) for m in molecules]
        ),
    }


def prepare(
    crystals: Path,
    molecules: Path,
    split: str,
    *,
    max_heavy: int = 96,
    max_erel: float = 20.0,
    max_per_molecule: int = 0,
) -> TrainingSet:
    """Read the crystals of one split.

    Args:
        crystals, molecules: Parquet tables.
        split: train, val or test.
        max_heavy: largest number of heavy atoms in a cell.
        max_erel: largest energy above the minimum of a landscape, kJ/mol.
        max_per_molecule: keep at most this many crystals a molecule, lowest first; 0 for all.

    Raises:
        UserInputError: a table cannot be read, or nothing is left.
    """
    try:
        table = pd.read_parquet(molecules, columns=MOLECULE_COLUMNS)
        rows = pd.read_parquet(crystals, columns=CRYSTAL_COLUMNS, filters=[("split", "==", split)])
    except (OSError, ValueError, KeyError) as error:
        raise UserInputError(f"Cannot read the training tables: {error}") from error
    table = table[table["split"] == split].set_index("mol_hash")
    rows = rows[~(rows["erel_kjmol"] > max_erel)]
    kept: dict[str, list[Any]] = {k: [] for k in ("molecule", "z", "cells", "erel", "x")}
    smiles: list[str] = []
    skipped = {"molecule": 0, "size": 0, "cell": 0}
    for mol_hash, group in rows.groupby("mol_hash", sort=True):
        order = _heavy_order(table.loc[[mol_hash]].to_dict("records")[0])
        if order is None:
            skipped["molecule"] += len(group)
            continue
        molecule, take = order
        lowest = group.sort_values("erel_kjmol") if max_per_molecule else group
        used = 0
        for row in lowest.head(max_per_molecule or len(group)).to_dict("records"):
            z = int(row["n_mol"])
            if z * molecule.n_heavy > max_heavy:
                skipped["size"] += 1
                continue
            cell = np.asarray(row["cell"], dtype=np.float64).reshape(3, 3)
            x = (
                np.asarray(row["frac"], dtype=np.float64).reshape(z, int(row["n_atoms_mol"]), 3)
                @ cell
            )
            framed = _canonical_cell(cell, x[:, take])
            if framed is None:
                skipped["cell"] += 1
                continue
            kept["cells"].append(framed[0])
            kept["x"].append(framed[1].reshape(-1, 3))
            kept["molecule"].append(len(smiles))
            kept["z"].append(z)
            kept["erel"].append(row["erel_kjmol"])
            used += 1
        if used:
            smiles.append(molecule.smiles)
    if not smiles:
        raise UserInputError(f"No crystal of split '{split}' is left in {crystals}.")
    log.info(
        "%s: %d crystals of %d molecules, left out %s", split, len(kept["z"]), len(smiles), skipped
    )
    return TrainingSet(
        smiles=smiles,
        **_molecule_data(smiles),
        molecule=np.array(kept["molecule"], dtype=np.int64),
        z=np.array(kept["z"], dtype=np.int64),
        cells=np.array(kept["cells"], dtype=np.float32),
        erel=np.array(kept["erel"], dtype=np.float32),
        offsets=np.concatenate([[0], np.cumsum([len(x) for x in kept["x"]])]).astype(np.int64),
        positions=np.concatenate(kept["x"]).astype(np.float32),
    )


def _canonical_cell(
    cell: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Niggli-reduced cell and coordinates in the standard frame; None where it cannot be used."""
    if np.linalg.det(cell) < 0:
        cell = -cell
    try:
        reduced = niggli_cell(cell)
    except ValueError:
        return None
    angles = cell_to_parameters(reduced)[3:]
    if (angles < ANGLE_RANGE[0]).any() or (angles > ANGLE_RANGE[1]).any():
        return None
    framed_cell, framed = standard_frame(reduced, x.reshape(-1, 3))
    return framed_cell, framed.reshape(x.shape)


def _heavy_order(row: dict[Any, Any]) -> tuple[Molecule, NDArray[np.int64]] | None:
    """The molecule and, for each of its heavy atoms, the atom of the table that it is."""
    try:
        molecule = Molecule.from_smiles(row["smiles"])
    except UserInputError:
        return None
    numbers = [int(n) for n in row["numbers"]]
    if set(numbers) - SUPPORTED_NUMBERS:
        return None
    skeleton = Chem.RWMol()
    for number in numbers:
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        skeleton.AddAtom(atom)
    for i, j in np.asarray(row["bonds"], dtype=int).reshape(-1, 2):
        skeleton.AddBond(int(i), int(j), Chem.BondType.SINGLE)
    # Match the bare graph: bond orders and charges of the table are not known. Hydrogens take
    # part, so that tautomers cannot be confused.
    query = Chem.RWMol()
    for atom in molecule.rdmol_h.GetAtoms():
        query.AddAtom(Chem.Atom(atom.GetAtomicNum()))
    for bond in molecule.rdmol_h.GetBonds():
        query.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    match = skeleton.GetSubstructMatch(query)
    if len(match) != len(numbers):
        return None
    return molecule, np.array(match[: molecule.n_heavy], dtype=np.int64)
