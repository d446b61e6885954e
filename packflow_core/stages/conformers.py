"""The conformers that a run's baselines pack; one pool for every stage and process of the run."""

from __future__ import annotations

from packflow_core.chem.conformers import ConformerPool, conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.spec import RunSpec


def conformers_of(spec: RunSpec) -> ConformerPool:
    """Conformers of a spec's molecule, lowest first.

    Raises:
        ConformerError: none could be embedded.
    """
    return conformer_pool(
        Molecule.from_smiles(spec.smiles), spec.random.n_conformers, spec.random.conformer_seed
    )
