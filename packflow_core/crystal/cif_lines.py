"""Lines that every CIF begins with: name, formula, cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from packflow_core import __version__
from packflow_core.chem.elements import symbol

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def cif_head(
    numbers: IntArray,
    name: str,
    z: int,
    molecules: int,
    comment_items: Mapping[str, str] | None = None,
) -> list[str]:
    """First lines of a data block: comments, name, formula, formula units in the cell.

    Args:
        numbers: [N] atomic numbers of `molecules` whole molecules.
        name: of the block; characters that CIF does not allow become "_".
        z: molecules in the cell.
        molecules: that `numbers` holds.
        comment_items: written as "# key: value" lines.
    """
    block_name = re.sub(r"[^\x21-\x7e]", "_", name)[:75] or "crystal"
    lines = []
    for key, value in (comment_items or {}).items():
        text = " ".join(f"{key}: {value}".split())
        lines.append("# " + text.encode("ascii", "replace").decode())
    return [
        *lines,
        f"data_{block_name}",
        f"_audit_creation_method 'packflow-csp {__version__}'",
        f"_chemical_formula_sum '{hill_formula(numbers, molecules)}'",
        f"_cell_formula_units_Z {z}",
    ]


def cell_lines(parameters: FloatArray, volume: float, density: float) -> list[str]:
    """Items of a cell: parameters [6] in Å and degrees, volume in Å3, density in g/cm3."""
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"_cell_{tag} {x:.12f}" for tag, x in zip(tags, parameters, strict=True)]
    return [
        *lines,
        f"_cell_volume {volume:.6f}",
        f"_exptl_crystal_density_diffrn {density:.6f}",
    ]


def hill_formula(numbers: IntArray, z: int) -> str:
    """Hill formula of the atoms divided by z, with spaces as CIF wants."""
    counts = Counter(symbol(n) for n in numbers.tolist())
    rest = sorted(s for s in counts if not (s == "C" or (s == "H" and "C" in counts)))
    ordered = ([s for s in ("C", "H") if s in counts] if "C" in counts else []) + rest
    return " ".join(s + (str(counts[s] // z) if counts[s] // z > 1 else "") for s in ordered)
