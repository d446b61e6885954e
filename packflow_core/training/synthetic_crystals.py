"""Close-packed crystals of one molecule, made by geometry alone, for synthetic training data.

ETKDG conformers are put down at random in loose cells of the space groups of organic crystals and
pressed until they touch (`packflow_core.baselines.press`), with a hard-sphere diameter that gives
them the volume expected of the molecule. Bonds are those of the conformers, so they are sound. No
energy is computed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from packflow_core.baselines.molecular_symmetry import MolecularSymmetry, symmetries
from packflow_core.baselines.packing import Packing
from packflow_core.baselines.press import DEFAULT_CONTACT, press
from packflow_core.baselines.press_params import PressParams
from packflow_core.baselines.random_packing import PackParams, expected_volume, pack
from packflow_core.baselines.space_groups import choices
from packflow_core.chem.conformers import ConformerError, ConformerPool, conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.contacts import BOND_TOLERANCE, bond_errors
from packflow_core.crystal.crystal import Crystal
from packflow_core.training.data import _canonical_cell

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Second part of the seed, so that no other use of the same numbers draws the same.
_STREAM = 0x5E3D

#: Molecules per primitive cell that are drawn, as often as the space groups that give them.
Z_VALUES = (1, 2, 3, 4, 6, 8, 16)

#: Logarithmic change of the volume of pressed packings with that of the hard-sphere diameter, and
#: the share of the change wanted that is made. The slope was found as 1.16 to 1.3 on molecules
#: from planar to globular; for the share see `packflow_core.baselines.press.calibrated`.
_SLOPE, _TRUST = 1.2, 2.0 / 3.0
_CONTACT_RANGE = (0.86, 1.06)

_KCAL = 4.184


class CrystalParams(BaseModel):
    """Settings of synthetic crystals."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conformers: int = Field(8, ge=1, le=200, description="conformers embedded for a molecule")
    window: float = Field(25.0, gt=0, description="kJ/mol above the lowest, of conformers used")
    max_cell: int = Field(96, ge=1, description="heavy atoms in a cell at most")
    trials: int = Field(
        6, ge=0, description="packings that the hard-sphere diameter is found with; 0: the usual"
    )
    max_volume_error: float = Field(
        0.4, gt=0, description="largest deviation from the expected volume, relative"
    )
    pack: PackParams = Field(
        # Looser and less choosy than where the press starts in a search: three to ten times as
        # fast, and the press leads to the same density.
        PackParams(volume_factor=2.0, min_contact=0.7),
        description="random packing",
    )
    press: PressParams = Field(PressParams(), description="press of the packings")


@dataclass
class MoleculeCrystals:
    """Crystals of one molecule, heavy atoms only, and what became of the other attempts.

    Attributes:
        smiles: canonical SMILES.
        z: molecules per cell of each crystal.
        cells: [3, 3] Å each, Niggli-reduced, in the frame of `standard_frame`.
        positions: [z, n, 3] Å each, molecules whole, atoms in the order of `Molecule`.
        attempted: crystals attempted.
        failed: attempts without a crystal, by reason.
        contact: hard-sphere diameter over the van der Waals sum; NaN where nothing was pressed.
    """

    smiles: str
    attempted: int
    z: list[int] = field(default_factory=list)
    cells: list[FloatArray] = field(default_factory=list)
    positions: list[FloatArray] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    contact: float = float("nan")

    def __len__(self) -> int:
        return len(self.z)


@dataclass(frozen=True, eq=False)
class _Draft:
    """What the packings of a molecule have in common."""

    molecule: Molecule
    pool: ConformerPool
    usable: IntArray
    symmetry: tuple[list[MolecularSymmetry], ...]
    pack: PackParams
    seed: int


def molecule_crystals(
    smiles: str, count: int, seed: int, params: CrystalParams
) -> MoleculeCrystals:
    """Attempt `count` crystals of a molecule.

    Crystal k is a function of (molecule, settings, seed, k). Failures never raise: they are
    counted as `conformer` (none could be embedded), `z` (no space group fits into the largest
    cell), `pack` (no packing without overlaps), `overlap`, `bad_cell` (by the press), `angles`
    (a reduced cell outside the range of the model), `bonds`, `volume`.

    Args:
        smiles: of the molecule.
        count: crystals to attempt.
        seed: of the data set.
        params: settings.

    Raises:
        UserInputError: the SMILES is not one that the workflow takes.
    """
    molecule = Molecule.from_smiles(smiles)
    out = MoleculeCrystals(molecule.smiles, count)
    if not count:
        return out
    try:
        draft = _draft(molecule, seed, params)
    except ConformerError:
        out.failed["conformer"] += count
        return out
    # The trials are the same however many crystals are wanted.
    drawn = [
        _packing(draft, number, params.max_cell) for number in range(max(count, params.trials))
    ]
    out.failed.update(found for found in drawn[:count] if isinstance(found, str))
    packings = [found for found in drawn[:count] if isinstance(found, Packing)]
    if not packings:
        return out
    trials = [found for found in drawn[: params.trials] if isinstance(found, Packing)]
    fit = _fitted(trials, params.press)
    out.contact = fit.wanted_contact or DEFAULT_CONTACT
    expected = expected_volume(molecule.numbers_h)
    for done in press(packings, fit):
        if done.crystal is None:
            out.failed[str(done.reason)] += 1
            continue
        kept = _heavy_crystal(done.crystal, molecule, expected, params.max_volume_error)
        if isinstance(kept, str):
            out.failed[kept] += 1
            continue
        out.z.append(done.crystal.z)
        out.cells.append(kept[0])
        out.positions.append(kept[1])
    return out


def _draft(molecule: Molecule, seed: int, params: CrystalParams) -> _Draft:
    """Conformers, their symmetry and the settings of packing.

    Raises:
        ConformerError: nothing could be embedded.
    """
    # A molecule has its own stream, whatever other molecules there are.
    digest = hashlib.sha256(f"{seed} {molecule.smiles}".encode()).digest()
    own = int.from_bytes(digest[:4], "little")
    pool = conformer_pool(molecule, params.conformers, own % 2**31)
    # NaN, of a molecule without a force field, counts as low.
    usable = np.flatnonzero(~(pool.energies * _KCAL > params.window))
    packing = params.pack
    if packing.handedness == "auto":
        hand = "racemic" if stereo_of(molecule).mirror_allowed else "enantiopure"
        packing = packing.model_copy(update={"handedness": hand})
    symmetry: tuple[list[MolecularSymmetry], ...] = tuple(
        symmetries(molecule, pool.positions[k]) if packing.special_positions else [] for k in usable
    )
    return _Draft(molecule, pool, usable, symmetry, packing, own)


def _packing(draft: _Draft, number: int, max_cell: int) -> Packing | str:
    """A loose packing, or the reason why there is none."""
    rng = np.random.default_rng([_STREAM, draft.seed, number])
    chosen = int(rng.integers(len(draft.usable)))
    symmetry = draft.symmetry[chosen]
    kinds = tuple(sorted({found.kind for found in symmetry}))
    p = draft.pack
    weights = np.array(
        [
            sum(
                choice.weight
                for choice in choices(
                    z, p.frequencies, p.handedness == "enantiopure", kinds, p.max_z_prime,
                    p.space_groups,
                )
            )
            if z * draft.molecule.n_heavy <= max_cell else 0.0
            for z in Z_VALUES
        ]
    )  # fmt: skip
    if not weights.sum():
        return "z"
    z = Z_VALUES[int(rng.choice(len(Z_VALUES), p=weights / weights.sum()))]
    conformer = draft.pool.positions[draft.usable[chosen]]
    found = pack(draft.molecule.numbers_h, conformer, z, draft.seed, number, p, symmetry)
    return "pack" if found.packing is None else found.packing


def _fitted(trials: list[Packing], params: PressParams) -> PressParams:
    """Settings with the hard-sphere diameter that suits the molecule.

    A cheap form of `packflow_core.baselines.press.calibrated`: a few packings are pressed with
    the usual diameter alone, and the slope of the volume is taken as known.
    """
    if params.wanted_contact is not None or not trials:
        return params
    crystals = [done.crystal for done in press(trials, params) if done.crystal is not None]
    if not crystals:
        return params
    found = float(np.median([crystal.volume / crystal.z for crystal in crystals]))
    # The crystals to learn from are minima of an energy, which know no thermal expansion.
    wanted = expected_volume(trials[0].numbers, temperature_K=0.0)
    exact = DEFAULT_CONTACT * (wanted / found) ** (_TRUST / _SLOPE)
    low = max(_CONTACT_RANGE[0], params.min_contact)
    # Rounded, lest the last digits of another machine make other crystals.
    contact = min(max(round(exact * 200.0) / 200.0, low), _CONTACT_RANGE[1])
    return params.model_copy(update={"wanted_contact": contact})


def _heavy_crystal(
    crystal: Crystal, molecule: Molecule, expected: float, max_volume_error: float
) -> tuple[FloatArray, FloatArray] | str:
    """Cell [3, 3] and heavy atoms [z, n, 3] in Å, or the reason why they are of no use."""
    if abs(crystal.volume / crystal.z / expected - 1.0) > max_volume_error:
        return "volume"
    if (np.abs(bond_errors(crystal, molecule.bonds)) > BOND_TOLERANCE).any():
        return "bonds"
    x = crystal.positions.reshape(crystal.z, molecule.n_atoms, 3)[:, : molecule.n_heavy]
    framed = _canonical_cell(crystal.cell, x)
    return "angles" if framed is None else framed
