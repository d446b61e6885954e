"""Space groups as a packing program needs them: operations, free cell parameters, frequencies.

Everything refers to the standard setting of International Tables A as gemmi has it (unique axis b,
hexagonal axes for R). The Cartesian frame is fixed for each lattice system, so that an operation
turns vectors by one constant matrix whatever the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import gemmi
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Symmetry of the place a molecule sits on: none, an inversion centre, a twofold axis, a mirror.
SiteKind = Literal["1", "-1", "2", "m"]

#: Largest number of cell parameters of a lattice system.
MAX_PARAMETERS = 6

#: Frequencies in percent of the space groups of organic crystals in the CSD, rounded: Baur and
#: Kassner, Acta Cryst. B 1992, 48, 356, for those above 1 %; the small ones after the space group
#: statistics of the CCDC. Groups whose molecules nearly always sit on mirror planes are left out.
GENERAL_FREQUENCY: dict[int, float] = {
    14: 36.0, 2: 13.7, 19: 11.6, 4: 6.7, 15: 6.6, 61: 4.3, 33: 1.8, 60: 1.2, 1: 1.1, 9: 1.0,
    29: 0.8, 5: 0.8, 148: 0.5, 7: 0.4, 18: 0.4, 43: 0.4, 56: 0.4, 88: 0.4, 92: 0.2, 96: 0.2,
    86: 0.2, 114: 0.2, 20: 0.2, 41: 0.2, 76: 0.15, 78: 0.15, 144: 0.1, 145: 0.1, 146: 0.1,
    147: 0.1, 169: 0.1, 170: 0.1, 161: 0.1, 167: 0.1, 110: 0.1, 13: 0.1,
}  # fmt: skip

#: The same for molecules on a symmetry element. Orders of magnitude of the structural classes of
#: Belsky, Zorkaya and Zorky, Acta Cryst. A 1995, 51, 473.
SPECIAL_FREQUENCY: dict[tuple[int, SiteKind], float] = {
    (14, "-1"): 8.0, (2, "-1"): 2.5, (61, "-1"): 0.8, (15, "-1"): 0.8, (148, "-1"): 0.1,
    (15, "2"): 2.5, (60, "2"): 0.7, (56, "2"): 0.3, (5, "2"): 0.2, (18, "2"): 0.2, (43, "2"): 0.2,
    (20, "2"): 0.1, (92, "2"): 0.1, (96, "2"): 0.1,
    (62, "m"): 1.3, (11, "m"): 0.4, (36, "m"): 0.4, (12, "m"): 0.2, (26, "m"): 0.1,
}  # fmt: skip

_ROOT3 = float(np.sqrt(3.0))

#: Primitive lattice vectors (rows, in units of the conventional ones) by centring.
_PRIMITIVE: dict[str, list[list[float]]] = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]],
    "C": [[0.5, -0.5, 0], [0.5, 0.5, 0], [0, 0, 1]],
    "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
    "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}

_ELEMENTS: dict[tuple[int, int], SiteKind] = {(-1, -3): "-1", (1, -1): "2", (-1, 1): "m"}


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """A space group in its standard setting.

    Attributes:
        number: 1 to 230.
        symbol: Hermann-Mauguin symbol.
        rotations: [m, 3, 3] W of the operations x' = W x + w (columns, fractional), those of the
            conventional cell with its centring included; the identity first.
        translations: [m, 3] w, in [0, 1).
        basis: [k, 3, 3] the cell matrix (rows a, b, c) is the sum of k parameters in Å times
            these; all cells of the lattice system can be had, in one Cartesian frame.
        primitive: [3, 3] rows of a primitive cell in units of the conventional ones.
        sohncke: no operation turns a molecule into its mirror image.
    """

    number: int
    symbol: str
    rotations: FloatArray
    translations: FloatArray
    basis: FloatArray
    primitive: FloatArray
    sohncke: bool

    @property
    def n_operations(self) -> int:
        """Operations of the conventional cell."""
        return len(self.rotations)

    @cached_property
    def cartesian(self) -> FloatArray:
        """[m, 3, 3] the rotations in the Cartesian frame, acting on columns."""
        # Any cell of the system gives the same; unequal irrational-looking parameters are sure
        # not to be special.
        parameters = 5.0 + np.sqrt(np.arange(2.0, 2.0 + len(self.basis)))
        cell = np.einsum("k,kab->ab", parameters, self.basis)
        turned = cell.T @ self.rotations @ np.linalg.inv(cell.T)
        # Rounding errors would grow with every use; the true entries are few and known.
        known = np.array([0.0, 0.5, 1.0, _ROOT3 / 2.0])
        known = np.concatenate([-known[:0:-1], known])
        nearest = np.abs(turned[..., None] - known).argmin(axis=-1)
        return np.asarray(known[nearest], dtype=np.float64)

    @cached_property
    def inverses(self) -> IntArray:
        """[m] index of the inverse of each operation, up to a lattice translation."""
        out = np.empty(self.n_operations, dtype=np.int64)
        for k, (w, t) in enumerate(zip(self.rotations, self.translations, strict=True)):
            inverse = np.rint(np.linalg.inv(w))
            off = self.translations + inverse @ t
            same = (self.rotations == inverse).all(axis=(1, 2))
            same &= (np.abs(off - np.rint(off)) < 1e-6).all(axis=1)
            out[k] = int(np.flatnonzero(same)[0])
        return out

    @cached_property
    def representatives(self) -> IntArray:
        """[m / centring] one operation for each rotation: the molecules of a primitive cell."""
        _, first = np.unique(self.rotations.reshape(-1, 9), axis=0, return_index=True)
        return np.sort(first)

    def cell(self, parameters: FloatArray) -> FloatArray:
        """[3, 3] Å conventional cell of its parameters [k] in Å."""
        return np.asarray(np.einsum("k,kab->ab", parameters, self.basis), dtype=np.float64)

    @cached_property
    def sites(self) -> dict[SiteKind, list[Site]]:
        """Special positions of order two, by kind; each element of symmetry once a cell."""
        out: dict[SiteKind, list[Site]] = {}
        # Centres of inversion are half a translation apart; 0 and 1 reach each once.
        shifts = np.array(np.meshgrid(*[[0.0, 1.0, -1.0]] * 3, indexing="ij")).reshape(3, -1).T
        shifts = shifts[np.argsort((shifts < 0).any(axis=1), kind="stable")]
        for k, (w, t) in enumerate(zip(self.rotations, self.translations, strict=True)):
            kind = _ELEMENTS.get((round(float(np.linalg.det(w))), round(float(np.trace(w)))))
            if kind is None:
                continue
            # Applied twice it must be the identity, else it is a screw axis or a glide plane.
            twice = (shifts + t) @ w.T + shifts + t
            good = np.flatnonzero(np.abs(twice).max(axis=1) < 1e-6)
            positive = good[(shifts[good] >= 0).all(axis=1)]
            for n in (positive if len(positive) else good[:1]).tolist():
                out.setdefault(kind, []).append(Site(kind, k, shifts[n]))
        return out


@dataclass(frozen=True, eq=False)
class Site:
    """A special position with one operation of order two that maps a molecule onto itself.

    Attributes:
        kind: of the symmetry element.
        operation: index of the operation in the space group.
        shift: [3] lattice translation on top of it.
    """

    kind: SiteKind
    operation: int
    shift: FloatArray


def _basis(number: int) -> FloatArray:
    """Basis of the cell matrices of the lattice system of a space group."""
    if number <= 2:
        entries = [[(0, 0, 1.0)], [(1, 0, 1.0)], [(1, 1, 1.0)], [(2, 0, 1.0)], [(2, 1, 1.0)],
                   [(2, 2, 1.0)]]  # fmt: skip
    elif number <= 15:
        entries = [[(0, 0, 1.0)], [(1, 1, 1.0)], [(2, 0, 1.0)], [(2, 2, 1.0)]]
    elif number <= 74:
        entries = [[(0, 0, 1.0)], [(1, 1, 1.0)], [(2, 2, 1.0)]]
    elif number <= 142:
        entries = [[(0, 0, 1.0), (1, 1, 1.0)], [(2, 2, 1.0)]]
    elif number <= 194:
        entries = [[(0, 0, 1.0), (1, 0, -0.5), (1, 1, _ROOT3 / 2.0)], [(2, 2, 1.0)]]
    else:
        entries = [[(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)]]
    basis = np.zeros((len(entries), 3, 3))
    for k, terms in enumerate(entries):
        for row, column, value in terms:
            basis[k, row, column] = value
    return basis


@lru_cache(maxsize=230)
def space_group(number: int) -> SpaceGroup:
    """The space group of a number.

    Raises:
        ValueError: not a number from 1 to 230.
    """
    if not 1 <= number <= 230:
        raise ValueError(f"space groups have numbers from 1 to 230, not {number}")
    found = gemmi.find_spacegroup_by_number(number)
    operations = sorted(found.operations(), key=lambda op: op.triplet() != "x,y,z")
    scale = float(gemmi.Op.DEN)
    return SpaceGroup(
        number=number,
        symbol=found.short_name(),
        rotations=np.array([op.rot for op in operations], dtype=np.float64) / scale,
        translations=np.array([op.tran for op in operations], dtype=np.float64) / scale % 1.0,
        basis=_basis(number),
        primitive=np.array(_PRIMITIVE[found.centring_type()], dtype=np.float64),
        sohncke=bool(found.is_sohncke()),
    )


@dataclass(frozen=True)
class Choice:
    """One way to put Z molecules into a primitive cell.

    Attributes:
        number: of the space group.
        site: symmetry of the place the molecule sits on.
        z_prime: independent molecules; 1 for one on a special position.
        weight: relative frequency.
    """

    number: int
    site: SiteKind
    z_prime: int
    weight: float


@lru_cache(maxsize=256)
def choices(
    z: int,
    frequencies: Literal["csd", "uniform"] = "csd",
    sohncke_only: bool = False,
    sites: tuple[SiteKind, ...] = (),
    max_z_prime: int = 1,
    only: tuple[int, ...] = (),
) -> tuple[Choice, ...]:
    """Space groups and positions that put exactly Z molecules into a primitive cell.

    Args:
        z: molecules in the primitive cell, half the Z of the tables for C2/c, a third for R-3.
        frequencies: "csd" for those of organic crystals, others never; "uniform" for all alike.
        sohncke_only: only groups without mirror images, for a pure enantiomer.
        sites: special positions the molecule is symmetric enough for.
        max_z_prime: largest number of independent molecules.
        only: numbers of the space groups to take; empty for all.

    Returns:
        The choices ordered by number and site; empty where there is none.
    """
    out: list[Choice] = []
    for number in only or range(1, 231):
        group = space_group(number)
        if sohncke_only and not group.sohncke:
            continue
        order = len(group.representatives)
        z_prime, rest = divmod(z, order)
        if not rest and 1 <= z_prime <= max_z_prime:
            weight = GENERAL_FREQUENCY.get(number, 0.0) if frequencies == "csd" else 1.0
            # What was asked for by number is wanted, however rare.
            weight = weight or (0.1 if only else 0.0)
            out.append(Choice(number, "1", z_prime, weight))
        for site in sites:
            if 2 * z == order and site in group.sites:
                weight = SPECIAL_FREQUENCY.get((number, site), 0.0)
                weight = weight if frequencies == "csd" else 1.0
                weight = weight or (0.1 if only else 0.0)
                out.append(Choice(number, site, 1, weight))
    return tuple(choice for choice in out if choice.weight > 0)
