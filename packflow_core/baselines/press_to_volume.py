"""The press with the volume given: for proposals whose density a model has predicted.

`press` takes the diameter of its hard spheres for given and the volume comes out. Here each
candidate has a volume to reach, and its diameter is sought: pressed, compared, pressed again from
where it is. Within the range of diameters that contacts of real crystals have, the candidate ends
at its volume, its molecules as far apart as they can be there. One that packs so badly that even
the smallest diameter leaves it larger stays larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from packflow_core.baselines.packing import Packing
from packflow_core.baselines.press import DEFAULT_CONTACT, Pressed, press
from packflow_core.baselines.press_params import PressParams

#: Diameters over the van der Waals sum that are allowed.
CONTACT_RANGE = (0.86, 1.06)
#: Growth of the logarithm of the volume with that of the diameter, about: below 3 because the
#: atoms of a molecule keep their distances. An error only costs another round.
_RESPONSE = 2.2
#: Rounds at most, and the relative error of the volume at which a candidate is done.
_ROUNDS = 3
_TOLERANCE = 0.005
#: The first round starts soft, so that molecules slide past each other; later ones from a jammed
#: packing that is nearly right.
_FIRST = PressParams(min_contact=0.8)
_LATER = PressParams(min_contact=0.8, pressures=(0.002, 0.0005))


@dataclass(frozen=True)
class PressedToVolume:
    """Outcome of one candidate.

    Attributes:
        pressed: of the last round that gave a crystal, else of the first.
        contact: hard-sphere diameter of that round over the van der Waals sum.
    """

    pressed: Pressed
    contact: float


def press_to_volume(packings: Sequence[Packing], volumes: Sequence[float]) -> list[PressedToVolume]:
    """Press packings of one molecule to given volumes.

    Args:
        packings: overlapping or loose.
        volumes: Å^3 of one molecule, for each.

    Returns:
        One outcome for each, in their order; it does not depend on the others.
    """
    contacts = [DEFAULT_CONTACT] * len(packings)
    done: dict[int, PressedToVolume] = {}
    waiting = list(range(len(packings)))
    for round_ in range(_ROUNDS):
        if not waiting:
            break
        starts = [done[k].pressed.packing if round_ else packings[k] for k in waiting]
        tried = [contacts[k] for k in waiting]
        outcomes = press(starts, _LATER if round_ else _FIRST, contacts=tried)
        again = []
        for k, contact, outcome in zip(waiting, tried, outcomes, strict=True):
            if outcome.crystal is None:
                done.setdefault(k, PressedToVolume(outcome, contact))
                continue
            done[k] = PressedToVolume(outcome, contact)
            missing = float(np.log(volumes[k] * outcome.crystal.z / outcome.crystal.volume))
            wanted = float(np.clip(contact * np.exp(missing / _RESPONSE), *CONTACT_RANGE))
            if abs(missing) > _TOLERANCE and wanted != contact:
                contacts[k] = wanted
                again.append(k)
        waiting = again
    return [done[k] for k in range(len(packings))]
