"""The structures of a finished run, or one crystal, compared with a reference crystal.

The rank stage does this for the reference that a run was started with. Here any reference may be
given, clusters of any size, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from packflow_core.analysis.matching import MatchReport, Reference, closeness, match_report
from packflow_core.crystal.crystal import Crystal
from packflow_core.errors import UserInputError
from packflow_core.stages.rank import check_reference, heavy_formula
from packflow_core.store.rows import Row, crystal_of

_TIMEOUT_S = 900.0
_COMPARISON_S = 60.0


@dataclass(frozen=True)
class RunMatch:
    """A ranked structure and how it compares with the reference.

    Attributes:
        row: of the ranked table.
        report: the comparison; None where the worker process was lost.
        problem: why there is none.
    """

    row: Row
    report: MatchReport | None
    problem: str = ""


def read_reference(path: Path) -> Reference:
    """The reference crystal of a CIF.

    Raises:
        UserInputError: it cannot be read, or nothing can be compared with it.
    """
    from packflow_core.crystal.cif import read_cif

    reference = Reference(read_cif(path))
    if reference.problem:
        raise UserInputError(
            f"The reference {path} cannot be compared with crystals ({reference.problem}); give a "
            "CIF with an ordinary three-dimensional cell."
        )
    return reference


def match_file(path: Path, reference: Path, shells: Sequence[int]) -> MatchReport:
    """Compare the crystal of a CIF with that of another.

    Args:
        path: CIF of the crystal.
        reference: CIF of the reference.
        shells: molecules in the clusters.

    Raises:
        UserInputError: a CIF cannot be read, or they hold different molecules.
    """
    from packflow_core.crystal.cif import read_cif

    known, crystal = read_reference(reference), read_cif(path)
    mine, theirs = (_heavy_atoms(c) for c in (crystal, known.crystal))
    if not np.array_equal(mine, theirs):
        raise UserInputError(
            f"{path} holds molecules of {heavy_formula(mine)}, but {reference} of "
            f"{heavy_formula(theirs)} (hydrogens aside); only crystals of one compound can match."
        )
    return match_report(crystal, known, shells=shells, timeout_s=_COMPARISON_S, thorough=True)


def match_rows(
    rows: Sequence[Row],
    smiles: str,
    reference: Path,
    shells: Sequence[int],
    workers: int | None,
    log: Path | None = None,
) -> Iterator[RunMatch]:
    """Compare ranked rows with a reference in worker processes, in order of completion.

    Args:
        rows: of the ranked table.
        smiles: of the target.
        reference: CIF.
        shells: molecules in the clusters.
        workers: processes; None for one per processor.
        log: file for what workers print.

    Raises:
        UserInputError: the reference cannot be read, or is of another molecule.
    """
    from packflow_core.chem.molecule import Molecule
    from packflow_core.devices import make_seats
    from packflow_core.stages.pools import pool

    check_reference(read_reference(reference).crystal, Molecule.from_smiles(smiles), str(reference))
    items = ((k, (row, str(reference), tuple(shells))) for k, row in enumerate(rows))
    seats = make_seats(workers, "cpu", gpu=False)
    for outcome in pool(seats, log).map(match_row, items, _TIMEOUT_S):
        row = rows[int(str(outcome.key))]
        if outcome.error is None:
            yield RunMatch(row, outcome.value)
        else:
            yield RunMatch(row, None, f"{outcome.error}: {outcome.detail}")


def match_row(row: Row, reference: str, shells: tuple[int, ...]) -> MatchReport:
    """Compare one ranked row with a reference; runs in a worker process."""
    return match_report(crystal_of(row), _cached(reference), shells=shells, timeout_s=_COMPARISON_S)


def best_first(matches: Sequence[RunMatch]) -> list[RunMatch]:
    """The best matches first; equal ones by rank, those without a report last."""
    return sorted(
        matches,
        key=lambda m: (
            m.report is None,
            closeness(m.report) if m.report is not None else (),
            int(m.row["rank"]),
        ),
    )


@lru_cache(maxsize=2)
def _cached(path: str) -> Reference:
    return read_reference(Path(path))


def _heavy_atoms(crystal: Crystal) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    first = crystal.numbers[: len(crystal) // crystal.z]
    return np.sort(first[first > 1])
