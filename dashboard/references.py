"""The known form of a target: its crystal and its density, read once per file."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from dashboard.runs import RunView
from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.errors import PackflowError
from packflow_core.stages.present import reference_density

logger = logging.getLogger(__name__)

#: By file, its modification time and the molecule.
_densities: dict[tuple[Path, int, str], float | None] = {}


def crystal(run: RunView) -> Crystal | None:
    """The reference crystal of a run; None where it has none that can be read."""
    path = run.store.reference
    return None if path is None else _read(path, _moment(path))


def density(runs: Iterable[RunView]) -> float | None:
    """Density of the first reference among the runs of a target, g/cm3; None without one."""
    for run in runs:
        path = run.store.reference
        if path is None:
            continue
        key = (path, _moment(path), run.smiles)
        if key not in _densities:
            _densities[key] = _density(run)
        if _densities[key] is not None:
            return _densities[key]
    return None


def _density(run: RunView) -> float | None:
    try:
        return reference_density(run.store)
    except (PackflowError, OSError, ValueError) as error:
        logger.warning("reference of %s: %s", run.folder, error)
        return None


@lru_cache(maxsize=64)
def _read(path: Path, _moment: int) -> Crystal | None:
    try:
        return read_cif(path)
    except (PackflowError, OSError, ValueError) as error:
        logger.warning("reference %s: %s", path, error)
        return None


def _moment(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
