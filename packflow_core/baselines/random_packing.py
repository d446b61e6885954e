"""Random packings: a molecule anywhere, any way round, in a loose random cell of a space group.

The simplest generator there is, and the start of the press. Cells of a space group are drawn
about half again as large as the crystal will be, the molecule is put down at random, the
operations of the group make the others, and what overlaps is thrown away. (PyXtal does the same
and more; for packings as loose as these it takes many times longer, and it gives up by the clock,
so that its results would depend on the machine.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from packflow_core.baselines.molecular_symmetry import MolecularSymmetry
from packflow_core.baselines.packing import (
    Packing,
    random_turns,
    turn_onto,
    turned_about,
)
from packflow_core.baselines.packing_pairs import closest_ratio
from packflow_core.baselines.space_groups import (
    Choice,
    Site,
    SiteKind,
    SpaceGroup,
    choices,
    space_group,
)
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Average volumes in Å3 that atoms take up in crystals at room temperature, by atomic number
#: (Hofmann, Acta Cryst. B 2002, 58, 489, table 1).
ATOM_VOLUMES: dict[int, float] = {
    1: 5.08, 5: 13.24, 6: 13.87, 7: 11.8, 8: 11.39, 9: 11.17, 14: 37.3, 15: 29.5, 16: 25.2,
    17: 25.8, 33: 36.4, 34: 30.3, 35: 32.7, 53: 46.2,
}  # fmt: skip

#: Thermal expansion of organic crystals by volume, 1/K (ibid.).
THERMAL_EXPANSION = 0.95e-4

#: Growth of the volume after each round of failed attempts.
_LOOSER = 1.1

#: Second part of the seed, so that no other use of the same numbers draws the same.
_STREAM = 0x7AC4


class PackParams(BaseModel):
    """Settings of random packing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frequencies: Literal["csd", "uniform"] = Field(
        "csd", description="space groups as often as in the CSD, or all alike"
    )
    space_groups: tuple[int, ...] = Field(
        (), description="numbers of the only space groups to use; empty: all"
    )
    handedness: Literal["auto", "racemic", "enantiopure"] = Field(
        "auto",
        description="enantiopure: only groups that make no mirror images; auto: so where the "
        "SMILES fixes the hand of the molecule",
    )
    special_positions: bool = Field(
        True, description="molecules on symmetry elements where they are symmetric enough"
    )
    max_z_prime: int = Field(1, ge=1, le=8, description="independent molecules at most")
    volume_factor: float = Field(
        1.5, ge=0.8, le=10, description="volume drawn over the one expected of the crystal"
    )
    max_volume_factor: float = Field(
        4.0, ge=0.8, le=50, description="volume at which packing gives up, likewise"
    )
    min_contact: float = Field(
        0.85, gt=0, le=1, description="smallest contact allowed, over the van der Waals sum"
    )
    attempts: int = Field(60, ge=1, description="attempts at each volume")
    min_angle_deg: float = Field(60, gt=0, le=90, description="smallest cell angle drawn, degrees")

    @field_validator("space_groups")
    @classmethod
    def _numbers(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= number <= 230 for number in value):
            raise ValueError("space_groups takes numbers from 1 to 230")
        return tuple(sorted(set(value)))


@dataclass(frozen=True)
class Packed:
    """Outcome of one attempt to pack.

    Attributes:
        packing: the random packing, None where none was found.
        choice: space group and position that were drawn.
        attempts: placements tried.
        volume_factor: volume over the expected one.
        reason: why there is no packing, else empty.
        detail: the reason in words and numbers.
    """

    packing: Packing | None
    choice: Choice
    attempts: int
    volume_factor: float
    reason: Reason = Reason.NONE
    detail: str = ""


def expected_volume(numbers: IntArray, temperature_K: float = 298.0) -> float:
    """Å3 that a molecule of these atoms takes up in a crystal, good to about 5 %."""
    volume = sum(ATOM_VOLUMES[int(number)] for number in numbers)
    return float(volume * (1.0 + THERMAL_EXPANSION * (temperature_K - 298.0)))


def pack(
    numbers: IntArray,
    conformer: FloatArray,
    z: int,
    seed: int,
    index: int,
    params: PackParams,
    symmetry: Sequence[MolecularSymmetry] = (),
) -> Packed:
    """A random packing of rigid molecules; depends on (seed, z, index) and nothing before.

    Args:
        numbers: [n] atomic numbers of the molecule, hydrogens included.
        conformer: [n, 3] Å.
        z: molecules in the primitive cell.
        seed: of the campaign.
        index: of the candidate.
        params: settings.
        symmetry: symmetry of the molecule (`symmetries`), for special
            positions.

    Raises:
        UserInputError: no space group puts z molecules into a cell under these settings.
    """
    rng = np.random.default_rng([_STREAM, seed, z, index])
    kinds: tuple[SiteKind, ...] = ()
    if params.special_positions:
        kinds = tuple(sorted({found.kind for found in symmetry}))
    choice = _choose(z, params, kinds, rng)
    group = space_group(choice.number)
    offsets = conformer - conformer.mean(axis=0)
    site, own = None, None
    if choice.site != "1":
        places = group.sites[choice.site]
        site = places[int(rng.integers(len(places)))]
        mine = [found for found in symmetry if found.kind == choice.site]
        own = mine[int(rng.integers(len(mine)))]
        offsets = own.offsets
    expected = expected_volume(numbers)
    tried, factor = 0, params.volume_factor
    while factor <= params.max_volume_factor * (1.0 + 1e-9):
        for _ in range(params.attempts):
            tried += 1
            draft = Packing(
                group=group,
                numbers=numbers,
                offsets=offsets,
                parameters=_cell(group, rng, params.min_angle_deg),
                centres=rng.random((choice.z_prime, 3)),
                turns=random_turns(rng, choice.z_prime),
                site=site,
            )
            if site is not None and own is not None:
                draft = _on_site(draft, site, own, rng)
            draft = draft.grown((factor * expected / draft.volume_per_molecule) ** (1.0 / 3.0))
            if _apart(draft, params.min_contact):
                return Packed(draft, choice, tried, factor)
        factor *= _LOOSER
    detail = (
        f"{tried} placements in {group.symbol} overlap, up to {params.max_volume_factor:g} times "
        "the expected volume"
    )
    return Packed(None, choice, tried, factor / _LOOSER, Reason.OVERLAP, detail)


def _choose(
    z: int, params: PackParams, kinds: tuple[SiteKind, ...], rng: np.random.Generator
) -> Choice:
    """Space group and position of a candidate.

    Raises:
        UserInputError: there is none.
    """
    found = choices(
        z,
        params.frequencies,
        params.handedness == "enantiopure",
        kinds,
        params.max_z_prime,
        params.space_groups,
    )
    if not found:
        raise UserInputError(
            f"No space group allowed by the settings puts {z} molecules into a primitive cell; "
            "change z, name other space_groups, or raise max_z_prime."
        )
    weights = np.array([choice.weight for choice in found])
    return found[int(rng.choice(len(found), p=weights / weights.sum()))]


def _cell(group: SpaceGroup, rng: np.random.Generator, min_angle: float) -> FloatArray:
    """[k] parameters of a random cell of any size."""
    lengths = np.exp(rng.normal(scale=0.35, size=3))
    low = np.cos(np.radians(min_angle))
    if group.number <= 2:
        while True:
            cosines = rng.uniform(-low, low, 3)
            gram = np.eye(3)
            gram[[0, 0, 1], [1, 2, 2]] = gram[[1, 2, 2], [0, 0, 1]] = cosines
            # Well away from flat cells: the volume of a unit rhombohedron of 60 degrees is 0.71.
            if np.linalg.det(gram) > 0.25:
                break
        cell = np.linalg.cholesky(gram) * lengths[:, None]
        return np.asarray(cell[np.tril_indices(3)], dtype=np.float64)
    if group.number <= 15:
        cosine = float(rng.uniform(-low, low))
        a, b, c = lengths
        return np.array([a, b, c * cosine, c * np.sqrt(1.0 - cosine**2)])
    return np.asarray(lengths[: len(group.basis)], dtype=np.float64)


def _on_site(
    draft: Packing, site: Site, own: MolecularSymmetry, rng: np.random.Generator
) -> Packing:
    """The draft with its molecule moved and turned onto the special position."""
    group = draft.group
    rotation = group.rotations[site.operation]
    shift = group.translations[site.operation] + site.shift
    centres = 0.5 * (draft.centres + draft.centres @ rotation.T + shift)
    turns = draft.turns
    if own.kind != "-1":
        matrix = group.cartesian[site.operation]
        # I + R projects onto a twofold axis, I - R onto the normal of a mirror plane.
        projector = np.eye(3) + matrix if own.kind == "2" else np.eye(3) - matrix
        column = projector[:, int(np.abs(projector).sum(axis=0).argmax())]
        axis = column / np.linalg.norm(column)
        end = axis if rng.random() < 0.5 else -axis
        turns = (turned_about(axis, rng.uniform(0.0, 2.0 * np.pi)) @ turn_onto(own.axis, end))[None]
    return replace(draft, centres=centres, turns=turns)


def _apart(draft: Packing, min_contact: float) -> bool:
    """Whether no two molecules of a packing overlap."""
    try:
        return closest_ratio(draft, min_contact) >= min_contact
    except ValueError:
        # Too flat a cell to search is none to keep.
        return False
