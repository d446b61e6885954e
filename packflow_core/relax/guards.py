"""Early ends: relaxations that no number of steps would save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.crystal.contacts import Contact, intermolecular_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights
from packflow_core.relax.batch import Batch, Shape
from packflow_core.relax.cell import lowest_heights
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: A larger force, in eV/Å, on an atom of a molecule means that something is inside something.
MAX_FORCE = 1e4


class Fault(NamedTuple):
    """Why a crystal cannot be relaxed, or no further."""

    reason: Reason
    detail: str


def shape_of(start: Crystal, bonds: IntArray, params: RelaxParams) -> Shape:
    """What is constant about a crystal while it is relaxed.

    Args:
        start: the crystal at the start.
        bonds: [nb, 2] bonds of one molecule, hydrogens included.
        params: the protocol and its limits.
    """
    size = len(start) // start.z
    limits = params.max_bond_ratio * COVALENT_RADII[start.numbers[:size][bonds]].sum(axis=1)
    shifts = np.repeat(np.arange(start.z) * size, len(bonds))[:, None]
    return Shape(
        free=np.ones(len(start), dtype=bool) if params.moves_cell else ~start.heavy,
        bonds=np.tile(bonds, (start.z, 1)) + shifts,
        longest=np.tile(limits, start.z),
        volume=start.volume,
    )


def check_start(start: Crystal, shape: Shape, params: RelaxParams) -> Fault | None:
    """Whether a relaxation is worth beginning: bad cell, broken molecule, clash."""
    low = heights(start.cell).min()
    if not low >= params.min_height_A:
        return Fault(Reason.BAD_CELL, f"cell height {low:.2f} Å")
    vectors = start.positions[shape.bonds[:, 1]] - start.positions[shape.bonds[:, 0]]
    ratios = np.linalg.norm(vectors, axis=1) / shape.longest
    if len(ratios) and ratios.max() > 1.0:
        worst = int(ratios.argmax())
        size = len(start) // start.z
        return Fault(
            Reason.BROKEN_MOLECULE, _stretched(shape.bonds[worst], size, ratios[worst], params)
        )
    clash = closest_heavy(start, params.clash_factor)
    if clash is not None:
        return Fault(
            Reason.CLASH,
            f"heavy atoms {clash.i} and {clash.j} of two molecules are "
            f"{clash.distance:.2f} Å apart, {clash.ratio:.2f} of their covalent radii",
        )
    return None


def check_geometries(batch: Batch, sizes: Sequence[int], params: RelaxParams) -> dict[int, Fault]:
    """Crystals of a batch that are not worth another evaluation.

    Args:
        batch: B crystals.
        sizes: [B] atoms of a molecule of each.
        params: the limits.
    """
    finite = ~batch.any_atom(~np.isfinite(batch.positions).all(axis=1))
    finite &= np.isfinite(batch.cells).all(axis=(1, 2))
    ratio = batch.volumes / batch.start_volumes
    low = lowest_heights(batch.cells)
    with np.errstate(invalid="ignore"):
        bad_volume = ~((params.min_volume_ratio <= ratio) & (ratio <= params.max_volume_ratio))
        flat = ~(low >= params.min_height_A)
    vectors = batch.positions[batch.bonds[:, 1]] - batch.positions[batch.bonds[:, 0]]
    stretch = np.sqrt((vectors * vectors).sum(axis=1)) / batch.longest
    torn = np.zeros(len(batch), dtype=bool)
    torn[batch.bond_owner[stretch > 1.0]] = True
    faults: dict[int, Fault] = {}
    for k in np.flatnonzero(~finite | bad_volume | flat | torn).tolist():
        if not finite[k]:
            faults[k] = Fault(Reason.NAN, "positions or cell are not finite")
        elif bad_volume[k]:
            text = f"cell volume {ratio[k]:.2f} times that of the start"
            faults[k] = Fault(Reason.EXPLODED, text)
        elif flat[k]:
            faults[k] = Fault(Reason.EXPLODED, f"cell height {low[k]:.2f} Å")
        else:
            own = np.flatnonzero(batch.bond_owner == k)
            worst = own[int(stretch[own].argmax())]
            bond = batch.bonds[worst] - batch.starts[k]
            text = _stretched(bond, sizes[k], stretch[worst], params)
            faults[k] = Fault(Reason.EXPLODED, text)
    return faults


def check_energies(energies: FloatArray, fmax: FloatArray) -> dict[int, Fault]:
    """Crystals whose evaluation [B] gave no sound energy (eV) or largest force (eV/Å)."""
    faults: dict[int, Fault] = {}
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(np.isfinite(energies) & (fmax <= MAX_FORCE)))
    for k in bad.tolist():
        if np.isfinite(energies[k]) and np.isfinite(fmax[k]):
            faults[k] = Fault(Reason.EXPLODED, f"force of {fmax[k]:.3g} eV/Å")
        else:
            faults[k] = Fault(Reason.NAN, "energy or forces are not finite")
    return faults


def _stretched(bond: IntArray, size: int, ratio: float, params: RelaxParams) -> str:
    """A bond [2] of a crystal with `size` atoms a molecule, longer than allowed."""
    i, j = (int(x) % size for x in bond)
    factor = ratio * params.max_bond_ratio
    return f"bond {i}-{j} of molecule {int(bond[0]) // size} is {factor:.2f} times the covalent sum"


def closest_heavy(crystal: Crystal, factor: float) -> Contact | None:
    """Heavy atoms of two molecules closer than `factor` times their covalent radii, the worst."""
    radii = COVALENT_RADII[crystal.numbers]
    if not crystal.heavy.any() or factor == 0:
        return None
    cutoff = 2.0 * factor * float(radii[crystal.heavy].max())
    pairs = intermolecular_pairs(crystal, cutoff, heavy_only=True)
    ratio = pairs.distance / (radii[pairs.i] + radii[pairs.j])
    if not len(ratio) or ratio.min() >= factor:
        return None
    k = int(ratio.argmin())
    return Contact(float(ratio[k]), int(pairs.i[k]), int(pairs.j[k]), float(pairs.distance[k]))
