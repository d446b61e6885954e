"""Settings of a pool of conformers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rdkit.Chem.rdMolDescriptors import CalcNumRotatableBonds

from packflow_core.chem.molecule import Molecule

#: Embeddings for up to so many rotatable bonds, then for all others: Ebejer, Morris and Deane,
#: J. Chem. Inf. Model. 2012, 52, 1146.
_EMBEDDINGS = ((7, 50), (12, 200))
_EMBEDDINGS_BEYOND = 300
EMBEDDINGS_MAX = 5000

#: Rings of this size and more turn like chains.
_MACROCYCLE = 9


class ConformerParams(BaseModel):
    """How to make the conformers of a molecule: search, or a file that holds them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_embed: int | None = Field(
        None,
        ge=1,
        le=EMBEDDINGS_MAX,
        description="embeddings; empty: 50 for up to 7 rotatable bonds, 200 for up to 12, else 300",
    )
    seed: int = Field(0, ge=0, le=1_000_000, description="seed of the embedding")
    force_field: Literal["MMFF94s", "UFF"] = Field(
        "MMFF94s",
        description="relaxes the conformers and gives their energies; UFF where MMFF94s lacks "
        "parameters",
    )
    window_kJ_mol: float = Field(
        25.0,
        ge=0,
        allow_inf_nan=False,
        description="conformers up to this far above the lowest are kept, kJ/mol",
    )
    rmsd_A: float = Field(
        0.3,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="conformers whose heavy atoms agree within this RMSD are one, Å",
    )
    polar_hydrogens: bool = Field(
        True,
        description="conformers whose hydrogens on N, O or S point elsewhere are two, wherever "
        "their heavy atoms are",
    )
    max_conformers: int = Field(
        100, ge=1, le=EMBEDDINGS_MAX, description="the lowest so many are kept"
    )
    file: str | None = Field(
        None,
        description="file with conformers of your own, one per frame; nothing is searched then, "
        "and all of them are taken in their order",
    )

    def embeddings(self, molecule: Molecule) -> int:
        """Embeddings for a molecule."""
        if self.n_embed is not None:
            return self.n_embed
        flexible = flexible_bonds(molecule)
        return next((n for most, n in _EMBEDDINGS if flexible <= most), _EMBEDDINGS_BEYOND)


def flexible_bonds(molecule: Molecule) -> int:
    """Rotatable bonds as RDKit counts them (amides are none), plus single bonds of macrocycles."""
    mol = molecule.rdmol
    rings = mol.GetRingInfo()
    turning = {
        bond
        for ring in rings.BondRings()
        if len(ring) >= _MACROCYCLE
        for bond in ring
        if rings.MinBondRingSize(bond) >= _MACROCYCLE
        and mol.GetBondWithIdx(bond).GetBondTypeAsDouble() == 1.0
        and not mol.GetBondWithIdx(bond).GetIsConjugated()
    }
    return int(CalcNumRotatableBonds(mol)) + len(turning)
