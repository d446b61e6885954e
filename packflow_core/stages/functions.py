"""The function of each stage, as worker processes call it.

Module-level, picklable arguments; one row in and one row out, but for `hydrogenate` and the
relaxations, which take a group of candidates and give their rows one by one. Nothing here imports
the generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from packflow_core.chem.molecule import Molecule
from packflow_core.store.rows import Row

if TYPE_CHECKING:
    from packflow_core.stages.hydrogenate import HydrogenateParams
    from packflow_core.stages.rank import RankParams
    from packflow_core.stages.relax import Payload, RelaxParams


def run_hydrogenate(
    members: Sequence[tuple[int, Row]], smiles: str, params: HydrogenateParams
) -> Iterator[tuple[int, Row] | None]:
    """`hydrogenate_many` for a molecule given as SMILES; members are (key, row)."""
    from packflow_core.stages.hydrogenate import hydrogenate_many

    done = hydrogenate_many([row for _, row in members], _molecule(smiles), params)
    yield from ((key, row) for (key, _), row in zip(members, done, strict=True))


def run_relax(
    members: Sequence[tuple[int, Payload]],
    smiles: str,
    engine: str,
    params: RelaxParams,
    limit_s: float,
    states: str,
) -> Iterator[tuple[int, Row] | None]:
    """`relax_many`, imported where it runs."""
    from packflow_core.stages.relax import relax_many

    yield from relax_many(members, smiles, engine, params, limit_s, states)


def run_analyse(
    row: Row, smiles: str, params: RankParams, reference: str | None, conformers: str | None
) -> Row:
    """`analyse`, imported where it runs."""
    from packflow_core.stages.rank import analyse

    return analyse(row, smiles, params, reference, conformers)


def run_rank(rows: list[Row], params: RankParams) -> list[Row]:
    """`rank`, imported where it runs."""
    from packflow_core.stages.rank import rank

    return rank(rows, params)


@lru_cache(maxsize=8)
def _molecule(smiles: str) -> Molecule:
    return Molecule.from_smiles(smiles)
