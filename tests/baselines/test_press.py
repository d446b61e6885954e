from dataclasses import replace

import numpy as np
import pytest
from packing_molecules import ASPIRIN, SMALL, shape

from packflow_core.analysis.symmetry import find_symmetry
from packflow_core.baselines.packing import Packing
from packflow_core.baselines.press import (
    calibrated,
    press,
    wanted_distances,
)
from packflow_core.baselines.press_params import PressParams
from packflow_core.baselines.random_packing import PackParams, expected_volume, pack
from packflow_core.baselines.space_groups import space_group
from packflow_core.crystal.contacts import intermolecular_pairs, min_contact_ratio
from packflow_core.store.schema import Reason

FIXED = PressParams(wanted_contact=0.95)
GROUPS = (1, 2, 4, 5, 9, 14, 15, 19, 33, 43, 61, 96, 145, 148, 161, 169, 198)


def loose(number, index=0, smiles=SMALL, z_prime=1):
    molecule, conformer = shape(smiles)
    z = len(space_group(number).representatives) * z_prime
    params = PackParams(space_groups=(number,), max_z_prime=z_prime)
    return pack(molecule.numbers_h, conformer, z, 5, index, params).packing


@pytest.fixture(scope="module")
def pressed():
    starts = [loose(number) for number in GROUPS]
    return list(zip(GROUPS, starts, press(starts, FIXED), strict=True))


def test_symmetry_is_kept(pressed):
    for number, _, done in pressed:
        found = find_symmetry(done.crystal, 1e-3)
        assert found.number == number
        assert found.z_prime == pytest.approx(1.0)


def test_molecules_stay_rigid(pressed):
    for _, start, done in pressed:
        wanted = np.linalg.norm(start.offsets[:, None] - start.offsets, axis=-1)
        molecules = done.crystal.positions.reshape(done.crystal.z, -1, 3)
        apart = np.linalg.norm(molecules[:, :, None] - molecules[:, None], axis=-1)
        np.testing.assert_allclose(apart, np.broadcast_to(wanted, apart.shape), atol=1e-10)


def test_crystals_are_dense_and_free_of_overlaps(pressed):
    for _, start, done in pressed:
        assert done.reason is Reason.NONE
        assert done.contact == min_contact_ratio(done.crystal).ratio >= 0.85
        volume = done.crystal.volume / done.crystal.z
        assert volume < 0.9 * start.volume_per_molecule
        assert volume == pytest.approx(done.packing.volume_per_molecule)
        # Compressed until it jams: every molecule touches several others.
        limits = wanted_distances(start.numbers, start.offsets, FIXED) * 1.01
        pairs = intermolecular_pairs(done.crystal, float(limits.max()))
        n = len(start.numbers)
        touching = pairs.distance < limits[pairs.i % n, pairs.j % n]
        assert touching.sum() / done.crystal.z >= 6


def test_a_candidate_does_not_depend_on_its_batch():
    starts = [loose(number, index=k) for number in (2, 14, 19) for k in range(2)]
    starts.append(loose(4, z_prime=2))
    few, many = press(starts, FIXED, batch_size=3), press(starts, FIXED)
    # Alone, there is no room for a second independent molecule either.
    alone = [press([start], FIXED)[0] for start in starts[1:4]]
    for a, b in [*zip(few, many, strict=True), *zip(alone, many[1:4], strict=True)]:
        assert np.array_equal(a.crystal.positions, b.crystal.positions)
        assert np.array_equal(a.crystal.cell, b.crystal.cell)
        assert (a.evaluations, a.growth) == (b.evaluations, b.growth)


def test_overlapping_starts_are_mended():
    starts = [loose(14, index=k).grown(0.7) for k in range(6)]
    done = press(starts, FIXED)
    assert all(item.crystal is not None for item in done)


def test_smaller_spheres_make_denser_crystals():
    starts = [loose(14, index=k) for k in range(12)]
    volumes = []
    for contact in (0.86, 0.95, 1.04):
        params = PressParams(wanted_contact=contact, wanted_hydrogen_bond=contact)
        volumes.append(np.mean([item.crystal.volume for item in press(starts, params)]))
    assert volumes[0] < 0.92 * volumes[1] < 0.92**2 * volumes[2]


def test_falling_pressure_leaves_hard_spheres():
    params = PressParams(wanted_contact=0.95, wanted_hydrogen_bond=0.95)
    soft = params.model_copy(update={"pressures": (0.05,)})
    starts = [loose(19, index=k) for k in range(6)]
    hard_contacts = [item.contact for item in press(starts, params)]
    soft_contacts = [item.contact for item in press(starts, soft)]
    assert min(hard_contacts) > 0.93
    assert max(soft_contacts) < 0.93


def test_the_diameter_suits_the_molecule():
    molecule, conformer = shape(ASPIRIN)
    params = calibrated(molecule.numbers_h, conformer, PressParams())
    assert 0.9 < params.wanted_contact < 1.0
    assert calibrated(molecule.numbers_h, conformer, FIXED) is FIXED
    starts = [loose(number, index=k, smiles=ASPIRIN) for number in (14, 19) for k in range(8)]
    volumes = [item.crystal.volume / item.crystal.z for item in press(starts, params)]
    # The crystal of aspirin has 212 Å3 a molecule at room temperature.
    assert expected_volume(molecule.numbers_h) == pytest.approx(212.0, rel=0.02)
    assert expected_volume(molecule.numbers_h, 100.0) == pytest.approx(208.0, rel=0.02)
    assert np.median(volumes) == pytest.approx(212.0, rel=0.06)


def test_hydrogen_bonds_are_shorter_than_other_contacts():
    molecule, conformer = shape("NC(N)=O")
    limits = wanted_distances(molecule.numbers_h, conformer, FIXED)
    oxygen = int(np.flatnonzero(molecule.numbers_h == 8)[0])
    hydrogen = int(np.flatnonzero(molecule.numbers_h == 1)[0])
    assert limits[oxygen, hydrogen] == limits[hydrogen, oxygen] == pytest.approx(0.86 * 2.72)
    assert limits[oxygen, oxygen] == pytest.approx(0.95 * 3.04)
    assert limits[hydrogen, hydrogen] == pytest.approx(0.95 * 2.40)


def test_failures_come_back_with_a_reason_and_leave_the_others_alone():
    good = loose(14)
    flat = replace(loose(33), parameters=np.array([8.0, 9.0, 1e-5]))
    broken = replace(loose(14), parameters=np.full(4, np.nan))
    done = press([flat, good, broken], FIXED)
    assert [item.crystal is None for item in done] == [True, False, True]
    assert [item.reason for item in done] == [Reason.BAD_CELL, Reason.NONE, Reason.BAD_CELL]
    assert "too many images" in done[0].detail
    assert np.array_equal(done[1].crystal.positions, press([good], FIXED)[0].crystal.positions)
    strict = PressParams(wanted_contact=0.8, min_contact=0.95, max_growth=1.01)
    hopeless = press([good], strict)[0]
    assert (hopeless.crystal, hopeless.reason) == (None, Reason.OVERLAP)
    assert isinstance(hopeless.packing, Packing)
    assert "1.01 times" in hopeless.detail


def test_nothing_to_press():
    assert press([], FIXED) == []
