"""The function of each stage for one candidate, as worker processes call it.

Module-level, picklable arguments, one row in, one row out. Nothing here imports the generator:
workers need no torch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from packflow_core.chem.molecule import Molecule
from packflow_core.store.rows import Row

if TYPE_CHECKING:
    from packflow_core.stages.hydrogenate import HydrogenateParams
    from packflow_core.stages.rank import RankParams
    from packflow_core.stages.relax import RelaxParams


def run_hydrogenate(row: Row, smiles: str, params: HydrogenateParams) -> Row:
    """`hydrogenate` for a molecule given as SMILES."""
    from packflow_core.stages.hydrogenate import hydrogenate

    return hydrogenate(row, _molecule(smiles), params)


def run_relax(row: Row, smiles: str, engine: str, params: RelaxParams) -> Row:
    """`relax`, imported where it runs."""
    from packflow_core.stages.relax import relax

    return relax(row, smiles, engine, params)


def run_analyse(row: Row, smiles: str, params: RankParams, reference: str | None) -> Row:
    """`analyse`, imported where it runs."""
    from packflow_core.stages.rank import analyse

    return analyse(row, smiles, params, reference)


def run_rank(rows: list[Row], params: RankParams) -> list[Row]:
    """`rank`, imported where it runs."""
    from packflow_core.stages.rank import rank

    return rank(rows, params)


@lru_cache(maxsize=8)
def _molecule(smiles: str) -> Molecule:
    return Molecule.from_smiles(smiles)
