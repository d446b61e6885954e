import numpy as np
import pytest
import spglib

from packflow_core.baselines.space_groups import choices, space_group

NUMBERS = range(1, 231)


def random_cell(group, rng):
    cell = group.cell(4.0 + 5.0 * rng.random(len(group.basis)))
    assert np.linalg.det(cell) > 0
    return cell


def test_operations_turn_vectors_by_one_matrix_in_every_cell_of_the_system():
    rng = np.random.default_rng(0)
    for number in NUMBERS:
        group = space_group(number)
        cell = random_cell(group, rng)
        turned = cell.T @ group.rotations @ np.linalg.inv(cell.T)
        np.testing.assert_allclose(group.cartesian, turned, atol=1e-12)


def test_operations_form_a_group():
    for number in (1, 2, 14, 15, 43, 62, 88, 148, 161, 194, 205, 227):
        group = space_group(number)
        w, t = group.rotations, group.translations
        assert np.array_equal(w[0], np.eye(3))
        assert not t[0].any()
        known = {(w[k].tobytes(), tuple(np.rint(t[k] * 24) % 24)) for k in range(len(w))}
        assert len(known) == len(w)
        for a in range(len(w)):
            b = group.inverses[a]
            np.testing.assert_array_equal(w[a] @ w[b], np.eye(3))
            back = w[a] @ t[b] + t[a]
            np.testing.assert_allclose(back, np.rint(back), atol=1e-9)
            for b in range(0, len(w), 5):
                product = w[a] @ w[b] + 0.0
                shift = tuple(np.rint((w[a] @ t[b] + t[a]) * 24) % 24)
                assert (product.tobytes(), shift) in known


@pytest.mark.parametrize("number", [1, 2, 14, 15, 19, 41, 43, 61, 88, 92, 148, 161, 198, 225])
def test_spglib_knows_the_operations_by_the_same_number(number):
    group = space_group(number)
    found = spglib.get_spacegroup_type_from_symmetry(
        group.rotations.astype(int), group.translations, random_cell(group, np.random.default_rng())
    )
    assert found.number == number


def test_primitive_cells_hold_the_centring():
    for number in NUMBERS:
        group = space_group(number)
        own = (group.rotations == np.eye(3)).all(axis=(1, 2))
        steps = group.translations[own] @ np.linalg.inv(group.primitive)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
        assert np.linalg.det(group.primitive) == pytest.approx(1.0 / own.sum())
        assert len(group.representatives) * own.sum() == group.n_operations


def test_special_positions_are_of_order_two_and_of_the_kind_they_say():
    seen = set()
    for number in NUMBERS:
        group = space_group(number)
        for kind, sites in group.sites.items():
            seen.add(kind)
            for site in sites:
                w = group.rotations[site.operation]
                t = group.translations[site.operation] + site.shift
                np.testing.assert_allclose(w @ t + t, 0.0, atol=1e-9)
                wanted = {"-1": (-1, -3), "2": (1, -1), "m": (-1, 1)}[kind]
                assert (round(np.linalg.det(w)), round(np.trace(w))) == wanted
    assert seen == {"-1", "2", "m"}
    # Screw axes and glide planes hold nothing.
    assert not space_group(19).sites
    assert set(space_group(14).sites) == {"-1"}
    assert len(space_group(2).sites["-1"]) == 8


def test_choices_put_exactly_z_molecules_into_a_primitive_cell():
    for z in (1, 2, 4, 6, 8):
        for choice in choices(z, sites=("-1", "2", "m"), max_z_prime=2):
            order = len(space_group(choice.number).representatives)
            assert order * choice.z_prime == (z if choice.site == "1" else 2 * z)
    general = {choice.number: choice.weight for choice in choices(4)}
    assert max(general, key=general.get) == 14
    assert {14, 15, 19, 33} <= set(general)
    assert 2 not in general
    assert 2 in {choice.number for choice in choices(4, max_z_prime=2)}


def test_choices_follow_the_settings():
    pure = choices(4, sohncke_only=True)
    assert {choice.number for choice in pure} == {18, 19, 20, 76, 78}
    assert [choice.number for choice in choices(4, only=(16, 19))] == [16, 19]
    even = choices(4, "uniform")
    assert {choice.weight for choice in even} == {1.0}
    assert len(even) > len(choices(4))
    assert choices(5) == ()
