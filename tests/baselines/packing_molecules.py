"""Molecules for the tests of random packings."""

from functools import cache

from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule

#: Without any symmetry, and chiral.
SMALL = "NC(=O)[C@H](F)Cl"
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@cache
def shape(smiles):
    """Molecule and its lowest conformer."""
    molecule = Molecule.from_smiles(smiles)
    return molecule, conformer_pool(molecule, 5).positions[0]
