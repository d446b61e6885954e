"""From symmetric crystals to asymmetric units and on to given volumes."""

import numpy as np
import pytest

from packflow_core.analysis.metrics import amd
from packflow_core.baselines.press_to_volume import CONTACT_RANGE, press_to_volume
from packflow_core.baselines.random_packing import PackParams, pack
from packflow_core.baselines.space_groups import GENERAL_FREQUENCY, space_group
from packflow_core.baselines.symmetric_start import packing_of
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import min_contact_ratio
from packflow_core.crystal.crystal import Crystal

UREA = Molecule.from_smiles("NC(N)=O")
POOL = conformer_pool(UREA)


def packed(number, index=0):
    z = len(space_group(number).representatives)
    params = PackParams(space_groups=(number,), special_positions=False)
    return pack(UREA.numbers_h, POOL.positions[0], z, 1, index, params).packing


@pytest.mark.parametrize("number", sorted(GENERAL_FREQUENCY))
def test_the_asymmetric_unit_gives_the_crystal_back(number):
    crystal = packed(number).crystal()
    again = packing_of(crystal, crystal.positions[: UREA.n_atoms], UREA.numbers_h)
    assert again is not None
    assert again.group.number == number
    other = again.crystal()
    assert other.volume == pytest.approx(crystal.volume, rel=1e-9)
    assert amd(other) == pytest.approx(amd(crystal), abs=1e-6)


def test_without_symmetry_there_is_no_unit():
    crystal = packed(14).crystal()
    shaken = crystal.positions.copy()
    shaken[: UREA.n_atoms] += 0.3
    broken = Crystal(crystal.numbers, shaken, crystal.cell, crystal.z)
    assert packing_of(broken, shaken[: UREA.n_atoms], UREA.numbers_h) is None


def test_volumes_are_reached():
    packings = [packed(number, k) for k, number in enumerate((14, 2, 19, 14, 29, 4))]
    usual = [out.pressed.crystal.volume / out.pressed.crystal.z
             for out in press_to_volume(packings, [70.0] * 6)]  # fmt: skip
    assert np.abs(np.log(np.array(usual) / 70.0)).max() < 0.02
    larger = press_to_volume(packings, [72.0] * 6)
    for out in larger:
        crystal = out.pressed.crystal
        assert crystal.volume / crystal.z == pytest.approx(72.0, rel=0.02)
        assert CONTACT_RANGE[0] <= out.contact <= CONTACT_RANGE[1]
        assert min_contact_ratio(crystal).ratio > 0.8


def test_an_impossible_volume_ends_at_the_smallest_diameter():
    out = press_to_volume([packed(14)], [30.0])[0]
    assert out.contact == CONTACT_RANGE[0]
    assert out.pressed.crystal.volume / 4 > 45.0


def test_company_changes_nothing():
    packings = [packed(14, k) for k in range(3)]
    together = press_to_volume(packings, [72.0, 75.0, 69.0])
    alone = press_to_volume(packings[1:2], [75.0])[0]
    assert (alone.pressed.crystal.positions == together[1].pressed.crystal.positions).all()
    assert alone.contact == together[1].contact
