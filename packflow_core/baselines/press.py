"""Press: rigid molecules in a space group squeezed together until they touch everywhere.

A packing that was drawn loose is compressed by a pressure against a regularised hard-sphere
potential, its molecules rigid and its symmetry kept. Minimised is, for one asymmetric unit,

    E = p V / m + 1/2 sum_pairs w max(0, f s_ab - d_ab)^2

over the free parameters of the cell, the centres and the turns of the independent molecules.
V / m is the volume of the asymmetric unit, d_ab the distance of two atoms of different molecules,
s_ab the sum of their van der Waals radii, f the wanted fraction of it; every pair of the infinite
crystal that no operation maps onto another counts once (w is a half for an atom and its own image
under an operation of order two). Energies are in Å², pressures p in 1/Å.

The potential is that of hard spheres of diameter f s_ab made soft: overlaps at a minimum are of
order p, so that a few stages of falling pressure lead from a soft packing, in which molecules
slide past each other, to the jammed hard one. What overlap is left then is taken away by the
smallest growth of the cell. The idea of pressing rigid molecules with a regularised hard-sphere
potential is that of Genarris 3 (Yang et al., J. Chem. Theory Comput. 2025, 21, 11318); potential,
variables and minimiser here are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from packflow_core.baselines.packing import Packing, quaternion_turns
from packflow_core.baselines.packing_pairs import Shape, smallest_growth, vdw_sums
from packflow_core.baselines.press_lists import Member
from packflow_core.baselines.press_minimise import Minimum, Stage, minimise
from packflow_core.baselines.press_params import PressParams
from packflow_core.baselines.random_packing import PackParams, expected_volume, pack
from packflow_core.crystal.contacts import min_contact_ratio
from packflow_core.crystal.crystal import Crystal
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Diameter over the van der Waals sum where none is given, good for most molecules.
DEFAULT_CONTACT = 0.97

#: Diameters tried to find one for a molecule, and the packings they are tried on.
_TRIAL_CONTACTS = (0.90, 1.00)
_TRIALS = 16
_TRIAL_GROUP, _TRIAL_Z, _TRIAL_SEED = 14, 4, 0

#: Share of the logarithm of the diameter that follows the expected volume.
_TRUST = 2.0 / 3.0

#: The diameter stays in this range, whatever volume is expected.
_CONTACT_RANGE = (0.86, 1.06)

#: Å from a hydrogen to the N or O that it is bonded to, at most.
_DONOR_REACH = 1.25

#: Candidates that are computed together; more save little more time.
BATCH_SIZE = 128


@dataclass(frozen=True)
class Pressed:
    """Outcome of the press for one candidate.

    Attributes:
        packing: the pressed packing, symmetry and all; where it failed, as far as it got.
        crystal: its primitive, Niggli-reduced cell; None where it failed.
        evaluations: evaluations of energy and gradient.
        growth: linear factor of the cell that took away the last overlaps.
        contact: shortest contact over the van der Waals sum.
        reason: why there is no crystal, else empty.
        detail: the reason in words and numbers.
    """

    packing: Packing
    crystal: Crystal | None
    evaluations: int
    growth: float = 1.0
    contact: float = float("nan")
    reason: Reason = Reason.NONE
    detail: str = ""


def press(
    packings: Sequence[Packing],
    params: PressParams,
    batch_size: int = BATCH_SIZE,
    contacts: Sequence[float] | None = None,
) -> list[Pressed]:
    """Press packings of one molecule.

    Args:
        packings: loose or overlapping; atoms in the same order, conformers may differ.
        params: settings.
        batch_size: candidates at once; no number depends on it.
        contacts: hard-sphere diameter of each, in place of the one in the settings.

    Returns:
        One outcome for each, in their order. Candidates that cannot be pressed never raise: they
        come back with a reason.
    """
    if contacts is None:
        each = [params] * len(packings)
    else:
        each = [params.model_copy(update={"wanted_contact": contact}) for contact in contacts]
    members = [
        Member(p, Shape(p.offsets, wanted_distances(p.numbers, p.offsets, own)))
        for p, own in zip(packings, each, strict=True)
    ]
    out: dict[int, Pressed] = {}
    for minimum in minimise(members, _stages(params), batch_size):
        out[minimum.key] = _finished(members[minimum.key], minimum, params)
    return [out[key] for key in range(len(packings))]


def _stages(params: PressParams) -> list[Stage]:
    """The minimisations, one for each pressure."""
    return [Stage(p, params.max_steps, params.tolerance) for p in params.pressures]


def wanted_distances(numbers: IntArray, offsets: FloatArray, params: PressParams) -> FloatArray:
    """[n, n] Å hard-sphere diameters f s of the atoms of a molecule.

    Args:
        numbers: [n] atomic numbers.
        offsets: [n, 3] Å the molecule; donors of hydrogen bonds are told by their distance.
        params: settings.
    """
    apart = np.linalg.norm(offsets[:, None] - offsets[None], axis=-1)
    polar = np.isin(numbers, (7, 8))
    donated = (numbers == 1) & (polar[None, :] & (apart < _DONOR_REACH)).any(axis=1)
    bonds = donated[:, None] & polar[None, :]
    usual = DEFAULT_CONTACT if params.wanted_contact is None else params.wanted_contact
    factor = np.where(bonds | bonds.T, min(params.wanted_hydrogen_bond, usual), usual)
    return np.asarray(factor * vdw_sums(numbers), dtype=np.float64)


def calibrated(numbers: IntArray, conformer: FloatArray, params: PressParams) -> PressParams:
    """Settings with the hard-sphere diameter that suits a molecule.

    One diameter for all makes small round molecules too dense by a tenth and large awkward ones
    too light by as much. Here a few packings in P2_1/c, always the same, are pressed with two
    diameters; between them lies the one with which their median volume is that expected of the
    molecule's crystals (`expected_volume`). As that volume has errors of its own, of hydrogen
    bonds above all, the diameter is taken two thirds of the way from the usual one to it.

    Args:
        numbers: [n] atomic numbers, hydrogens included.
        conformer: [n, 3] Å.
        params: settings; those with a diameter come back as they are.
    """
    if params.wanted_contact is not None:
        return params
    # Later stages relax to minima of the lattice energy, which know no thermal expansion.
    wanted = np.log(expected_volume(numbers, temperature_K=0.0))
    pack_params = PackParams(space_groups=(_TRIAL_GROUP,), special_positions=False)
    tries = (
        pack(numbers, conformer, _TRIAL_Z, _TRIAL_SEED, k, pack_params) for k in range(_TRIALS)
    )
    trials = [found.packing for found in tries if found.packing is not None]
    found = []
    for contact in _TRIAL_CONTACTS:
        trial = params.model_copy(update={"wanted_contact": contact})
        crystals = [done.crystal for done in press(trials, trial) if done.crystal is not None]
        if crystals:
            found.append(np.log(np.median([crystal.volume / crystal.z for crystal in crystals])))
    contact = DEFAULT_CONTACT
    if len(found) == len(_TRIAL_CONTACTS) and found[1] > found[0]:
        low, high = np.log(_TRIAL_CONTACTS)
        share = (wanted - found[0]) / (found[1] - found[0])
        exact = low + share * (high - low)
        exact += (1.0 - _TRUST) * (np.log(DEFAULT_CONTACT) - exact)
        # Rounded, lest the last digits of another machine make other candidates.
        contact = round(float(np.exp(exact)) * 200.0) / 200.0
    contact = min(max(contact, _CONTACT_RANGE[0], params.min_contact), _CONTACT_RANGE[1])
    return params.model_copy(update={"wanted_contact": contact})


def _finished(member: Member, minimum: Minimum, params: PressParams) -> Pressed:
    """The last overlaps taken away, and the result judged."""
    start, geometry, evaluations = member.packing, minimum.geometry, minimum.evaluations
    count = len(start.centres)
    packing = replace(
        start,
        parameters=geometry.parameters[: len(start.parameters), 0].numpy().copy(),
        centres=geometry.centres[:, :count, 0].numpy().T.copy(),
        turns=quaternion_turns(geometry.turns[:, :count, 0].numpy().T.copy()),
    )
    if not minimum.sound:
        return Pressed(start, None, evaluations, reason=Reason.BAD_CELL, detail=member.fault)
    # The slack is that of the roundings between here and the check below.
    ratio = params.min_contact * (1.0 + 1e-9)
    try:
        growth = smallest_growth(packing, ratio, params.max_growth)
        if growth is None:
            detail = (
                f"contacts stay below {params.min_contact:g} of the van der Waals sum in a cell "
                f"{params.max_growth:g} times as long"
            )
            return Pressed(packing, None, evaluations, reason=Reason.OVERLAP, detail=detail)
        packing = packing.grown(growth)
        crystal = packing.crystal()
        contact = min_contact_ratio(crystal).ratio
    except ValueError as error:
        return Pressed(packing, None, evaluations, reason=Reason.BAD_CELL, detail=str(error))
    if not contact >= params.min_contact:
        detail = f"shortest contact {contact:.6f} is below {params.min_contact:g}"
        return Pressed(
            packing, None, evaluations, growth, contact, reason=Reason.OVERLAP, detail=detail
        )
    return Pressed(packing, crystal, evaluations, growth, contact)
