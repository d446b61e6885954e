import numpy as np
import pytest
from packing_molecules import SMALL, shape
from pydantic import ValidationError

from packflow_core.analysis.symmetry import find_symmetry
from packflow_core.baselines.molecular_symmetry import symmetries
from packflow_core.baselines.packing_pairs import (
    Shape,
    closest_ratio,
    image_pairs,
    smallest_growth,
    vdw_sums,
)
from packflow_core.baselines.random_packing import PackParams, expected_volume, pack
from packflow_core.baselines.space_groups import space_group
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.contacts import intermolecular_pairs, min_contact_ratio
from packflow_core.crystal.separate import separate_molecules
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

GROUPS = (1, 2, 5, 9, 14, 15, 19, 33, 43, 61, 88, 96, 145, 148, 161, 169, 198)


def packed(number, index=0, smiles=SMALL, z_prime=1, **settings):
    molecule, conformer = shape(smiles)
    z = len(space_group(number).representatives) * z_prime
    params = PackParams(space_groups=(number,), max_z_prime=z_prime, **settings)
    return pack(molecule.numbers_h, conformer, z, 3, index, params)


@pytest.mark.parametrize("number", GROUPS)
def test_packings_have_the_space_group_they_were_made_in(number):
    found = packed(number)
    crystal = found.packing.crystal()
    symmetry = find_symmetry(crystal, 1e-3)
    assert symmetry.number == number
    assert symmetry.z_prime == pytest.approx(1.0)
    assert crystal.z == len(space_group(number).representatives)
    contact = min_contact_ratio(crystal).ratio
    assert contact >= 0.85
    assert closest_ratio(found.packing, 3.0) == pytest.approx(contact, abs=1e-9)
    expected = crystal.z * expected_volume(shape(SMALL)[0].numbers_h)
    assert crystal.volume == pytest.approx(found.volume_factor * expected)


def test_molecules_keep_their_shape_and_hand():
    molecule, conformer = shape(SMALL)
    distances = np.linalg.norm(conformer[:, None] - conformer, axis=-1)
    hands = {}
    for number in (14, 19):
        crystal = packed(number).packing.crystal()
        molecules = crystal.positions.reshape(crystal.z, -1, 3)
        apart = np.linalg.norm(molecules[:, :, None] - molecules[:, None], axis=-1)
        np.testing.assert_allclose(apart, np.broadcast_to(distances, apart.shape), atol=1e-10)
        wrong = [stereo_of(molecule).inverted_in(x).any() for x in molecules]
        hands[number] = sum(wrong)
    # Half of a racemic crystal are mirror images, none of an enantiopure one.
    assert hands == {14: 2, 19: 0}


def test_a_candidate_depends_on_seed_z_and_index_alone():
    molecule, conformer = shape(SMALL)
    params = PackParams()

    def make(z, seed, index):
        return pack(molecule.numbers_h, conformer, z, seed, index, params).packing.crystal()

    first = make(4, 7, 1)
    make(4, 7, 2)
    again = make(4, 7, 1)
    assert np.array_equal(first.positions, again.positions)
    assert np.array_equal(first.cell, again.cell)
    for other in (make(2, 7, 1), make(4, 8, 1), make(4, 7, 2)):
        assert other.volume != first.volume or not np.array_equal(other.cell, first.cell)


def test_space_groups_are_drawn_by_their_frequencies():
    molecule, conformer = shape(SMALL)
    params = PackParams(attempts=1, max_volume_factor=1.5)
    drawn = [pack(molecule.numbers_h, conformer, 4, 0, k, params).choice.number for k in range(300)]
    # 36 / 65 of the weights at Z = 4; the standard deviation of the share is 0.03.
    assert 0.45 < drawn.count(14) / 300 < 0.67
    pure = PackParams(attempts=1, max_volume_factor=1.5, handedness="enantiopure")
    drawn = [pack(molecule.numbers_h, conformer, 4, 0, k, pure).choice.number for k in range(40)]
    assert all(space_group(number).sohncke for number in drawn)


def test_two_independent_molecules():
    crystal = packed(2, z_prime=2).packing.crystal()
    symmetry = find_symmetry(crystal, 1e-3)
    assert (symmetry.number, symmetry.z_prime, crystal.z) == (2, pytest.approx(2.0), 4)
    assert min_contact_ratio(crystal).ratio >= 0.85


@pytest.mark.parametrize(
    ("smiles", "kind", "number"),
    [
        ("F[C@H](Cl)[C@@H](F)Cl", "-1", 14),
        ("OC(=O)CCC(=O)O", "2", 15),
        ("Cc1ccccc1", "m", 11),
    ],
)
def test_symmetric_molecules_sit_on_special_positions(smiles, kind, number):
    molecule, _ = shape(smiles)
    from packflow_core.chem.conformers import conformer_pool

    for conformer in conformer_pool(molecule, 20).positions:
        symmetry = [found for found in symmetries(molecule, conformer) if found.kind == kind]
        if symmetry:
            break
    assert symmetry[0].deviation < 0.2
    z = len(space_group(number).representatives) // 2
    params = PackParams(space_groups=(number,))
    found = pack(molecule.numbers_h, conformer, z, 0, 0, params, symmetry)
    assert found.choice.site == kind
    crystal = found.packing.crystal()
    detected = find_symmetry(crystal, 1e-3)
    assert (crystal.z, detected.number) == (z, number)
    assert detected.z_prime == pytest.approx(0.5)
    assert min_contact_ratio(crystal).ratio >= 0.85


def test_conformers_are_made_exactly_symmetric():
    molecule, conformer = shape("c1ccc(cc1)-c1ccccc1")
    rng = np.random.default_rng(1)
    found = symmetries(molecule, conformer + rng.normal(scale=0.02, size=conformer.shape))
    assert [item.kind for item in found] == ["2", "2", "2"]
    for item in found:
        turn = 2.0 * np.outer(item.axis, item.axis) - np.eye(3)
        image = item.offsets @ turn
        nearest = np.linalg.norm(image[:, None] - item.offsets, axis=-1).min(axis=1)
        assert nearest.max() < 1e-12
        assert 0.0 < item.deviation < 0.1
    assert not symmetries(*shape(SMALL))


@pytest.mark.parametrize("number", [2, 14, 15, 19, 61, 96, 148])
def test_each_pair_of_the_crystal_is_listed_once(number):
    packing = packed(number, index=1).packing.grown(0.8)
    crystal = packing.crystal()
    pairs = image_pairs(
        packing.group,
        Shape(packing.offsets, np.full((len(packing.numbers),) * 2, 4.0)),
        packing.cell,
        packing.centres,
        packing.turns,
    )
    directed = intermolecular_pairs(crystal, 4.0)
    assert 2 * pairs.weight.sum() * crystal.z == len(directed.i)


def test_smallest_growth_is_that_of_the_whole_crystal():
    for number in (2, 14, 19):
        packing = packed(number, index=2).packing.grown(0.8)
        growth = smallest_growth(packing, 0.85, 1.5)
        other = separate_molecules(packing.crystal(), 0.85, 0.85, 1.5)
        assert growth > 1.0
        assert growth == pytest.approx(other.growth, rel=1e-6)
        assert min_contact_ratio(packing.grown(growth).crystal()).ratio >= 0.85 * (1 - 1e-9)
        assert smallest_growth(packing, 0.85, 0.5 * (1.0 + growth)) is None


def test_packings_that_fail_say_why():
    found = packed(14, volume_factor=0.8, max_volume_factor=0.8, attempts=3)
    assert found.packing is None
    assert (found.reason, found.attempts) == (Reason.OVERLAP, 3)
    assert "P21/c" in found.detail


def test_wrong_settings_are_user_errors():
    molecule, conformer = shape(SMALL)
    with pytest.raises(UserInputError, match="puts 5 molecules"):
        pack(molecule.numbers_h, conformer, 5, 0, 0, PackParams())
    with pytest.raises(ValidationError, match="1 to 230"):
        PackParams(space_groups=(0,))
    with pytest.raises(ValueError, match="not 231"):
        space_group(231)


def test_vdw_sums_are_those_of_the_contact_check():
    np.testing.assert_allclose(vdw_sums(np.array([1, 8])), [[2.4, 2.72], [2.72, 3.04]])
