"""Crystals as plain data for the 3D viewer: atoms, bonds, edges of the cell. No markup anywhere."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.similarity import SHELL_SIZE, Packing
from packflow_core.chem.elements import COVALENT_RADII, symbol
from packflow_core.crystal.crystal import Crystal

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MODES = ("cell", "supercell", "molecule", "overlay")

#: Data of a scene, ready for JSON.
Scene = dict[str, Any]

_BOND_SLACK_A = 0.3
_SUPERCELL = (2, 2, 2)
#: Beyond this many atoms a supercell grows along two or one axis only, then not at all.
_MAX_ATOMS = 4000
_EDGES = tuple(
    (corner, corner | bit) for corner in range(8) for bit in (1, 2, 4) if not corner & bit
)


def make_scene(crystal: Crystal, mode: str, reference: Crystal | None = None) -> Scene:
    """What the viewer draws.

    Args:
        crystal: molecules whole.
        mode: `cell` (the molecules of one cell), `supercell`, `molecule` (the first one alone) or
            `overlay` (a cluster of the reference with the candidate laid over it).
        reference: known crystal, for `overlay`.

    Returns:
        `models` (each with `elements` [n], `positions` [n, 3] Å, `bonds` [nb, 2] and `colour`,
        None for element colours), `edges` [ne, 2, 3] of the cell, `axes` (its labelled ends),
        `atoms` (number of the candidate's atoms drawn), `cell_atoms` (in its cell) and `note`.
    """
    if mode == "overlay":
        return _overlay(crystal, reference)
    if mode == "molecule":
        size = len(crystal) // crystal.z
        model = _model(crystal.numbers[:size], crystal.positions[:size], 1)
        return _scene([model], crystal)
    shown = crystal.wrapped()
    repeats = (1, 1, 1)
    if mode == "supercell":
        choices = (_SUPERCELL, (2, 2, 1), (2, 1, 1), (1, 1, 1))
        repeats = next(
            r for r in choices if len(crystal) * np.prod(r) <= _MAX_ATOMS or r == (1, 1, 1)
        )
        shown = shown.repeated(repeats)
    note = "" if mode == "cell" else f"{repeats[0]} × {repeats[1]} × {repeats[2]} cells"
    return _scene([_model(shown.numbers, shown.positions, shown.z)], crystal, note)


def _scene(models: list[Scene], crystal: Crystal, note: str = "", edges: bool = True) -> Scene:
    corners = np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)]) @ crystal.cell
    lines = [[corners[i].round(4).tolist(), corners[j].round(4).tolist()] for i, j in _EDGES]
    axes = [
        {"label": name, "at": (1.06 * crystal.cell[k]).round(4).tolist()}
        for k, name in enumerate("abc")
    ]
    return {
        "models": models,
        "edges": lines if edges else [],
        "axes": axes if edges else [],
        "atoms": len(models[0]["elements"]) if models else 0,
        "cell_atoms": len(crystal),
        "note": note,
    }


def _model(
    numbers: IntArray, positions: FloatArray, molecules: int, colour: str | None = None
) -> Scene:
    return {
        "elements": [symbol(int(number)) for number in numbers],
        "positions": positions.round(4).tolist(),
        "bonds": molecule_bonds(numbers, positions, molecules).tolist(),
        "colour": colour,
    }


def molecule_bonds(numbers: IntArray, positions: FloatArray, molecules: int) -> IntArray:
    """[nb, 2] bonds inside each of the molecules, which come one after the other, by distance."""
    size = len(numbers) // max(molecules, 1)
    x = positions.reshape(molecules, size, 3)
    radii = COVALENT_RADII[numbers].reshape(molecules, size)
    hydrogen = (numbers == 1).reshape(molecules, size)
    found = []
    upper = np.triu(np.ones((size, size), dtype=np.bool_), 1)
    for k in range(molecules):
        apart = np.linalg.norm(x[k][:, None] - x[k][None], axis=-1)
        near = upper & (apart < radii[k][:, None] + radii[k][None] + _BOND_SLACK_A)
        near &= ~(hydrogen[k][:, None] & hydrogen[k][None])
        found.append(np.argwhere(near) + k * size)
    return np.concatenate(found).astype(np.int64) if found else np.zeros((0, 2), dtype=np.int64)


def _overlay(crystal: Crystal, reference: Crystal | None) -> Scene:
    """A cluster of the reference, grey, and the candidate's molecules nearest to them."""
    if reference is None:
        return _scene([], crystal, "This run has no reference crystal.", edges=False)
    found, problem = _compare(crystal, reference)
    if found is None:
        return _scene([], crystal, f"No overlay: {problem}", edges=False)
    cluster = _cluster(reference, max(int(found.central_a), 0), SHELL_SIZE)
    turned = _images(crystal, found.transform, cluster)
    heavy_r = reference.heavy_only()
    heavy_c = crystal.heavy_only()
    n = len(cluster)
    candidate = _model(np.tile(_first(heavy_c), n), turned.reshape(-1, 3), n, colour="candidate")
    known = _model(np.tile(_first(heavy_r), n), cluster.reshape(-1, 3), n, colour="reference")
    note = (
        f"{found.n_matched} of {SHELL_SIZE} molecules match"
        + (f", RMSD {found.rmsd_n:.2f} Å" if np.isfinite(found.rmsd_n) else "")
        + ("; the candidate is shown inverted" if found.inverted else "")
        + "; the candidate is blue, the reference orange, hydrogens are left out"
    )
    return _scene([candidate, known], crystal, note, edges=False)


def _first(crystal: Crystal) -> IntArray:
    """[m] atomic numbers of one molecule."""
    return crystal.numbers[: len(crystal) // crystal.z]


def _compare(crystal: Crystal, reference: Crystal) -> tuple[Any, str]:
    """The comparison with its transform [4, 4] of the candidate onto the reference, or why not."""
    from oxtalign import compare

    first, second = Packing(reference), Packing(crystal)
    if first.problem or second.problem:
        return None, first.problem or second.problem
    try:
        found = compare(first.structure, second.structure, n=SHELL_SIZE)
    except Exception as error:  # whatever breaks inside of the comparison is no overlay
        logger.warning("overlay failed: %s: %s", type(error).__name__, error)
        return None, f"{type(error).__name__}: {error}"
    if found.transform is None:
        return None, found.message or "no molecule matches"
    return found, ""


def _molecule_images(crystal: Crystal, steps: int) -> FloatArray:
    """[images, m, 3] heavy atoms of every molecule in the cells -steps ... steps."""
    heavy = crystal.heavy_only().wrapped()
    molecules = heavy.positions.reshape(heavy.z, -1, 3)
    k = np.arange(-steps, steps + 1)
    shifts = np.stack(np.meshgrid(k, k, k, indexing="ij"), axis=-1).reshape(-1, 3) @ heavy.cell
    images: FloatArray = (molecules[:, None] + shifts[None, :, None]).reshape(
        -1, molecules.shape[1], 3
    )
    return images


def _cluster(crystal: Crystal, central: int, n: int) -> FloatArray:
    """[n, m, 3] a molecule and the n - 1 others with the nearest centroids."""
    from packflow_core.analysis.neighbors import reduced_cell

    heavy = Crystal(
        crystal.numbers, crystal.positions, reduced_cell(crystal.cell), crystal.z
    ).heavy_only().wrapped()  # fmt: skip
    home = heavy.positions.reshape(heavy.z, -1, 3)[min(central, heavy.z - 1)].mean(axis=0)
    images = _molecule_images(heavy, 2)
    order = np.argsort(np.linalg.norm(images.mean(axis=1) - home, axis=1), kind="stable")
    return images[order[:n]]


def _images(crystal: Crystal, transform: FloatArray, cluster: FloatArray) -> FloatArray:
    """[n, m, 3] the candidate's molecules, moved onto the reference, nearest to its cluster."""
    images = _molecule_images(crystal, 3)
    moved = images @ transform[:3, :3].T + transform[:3, 3]
    centres = moved.mean(axis=1)
    apart = np.linalg.norm(cluster.mean(axis=1)[:, None] - centres[None], axis=-1)
    nearest: FloatArray = moved[apart.argmin(axis=1)]
    return nearest
