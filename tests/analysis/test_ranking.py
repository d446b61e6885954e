"""Energies per molecule, order, and duplicates without bin edges."""

import numpy as np
import pytest

from packflow_core.analysis.ranking import (
    EV_TO_KJ_MOL,
    DuplicateWindows,
    cluster_duplicates,
    energy_order,
    relative_lattice_energies,
)


def test_energies_are_per_molecule_and_relative_to_the_lowest():
    relative = relative_lattice_energies(np.array([-10.0, -20.2, -40.0]), np.array([2, 4, 8]))
    assert relative.tolist() == pytest.approx([0.05 * EV_TO_KJ_MOL, 0.0, 0.05 * EV_TO_KJ_MOL])
    assert pytest.approx(96.4853, abs=1e-4) == EV_TO_KJ_MOL


def test_no_candidates_is_no_error():
    assert relative_lattice_energies(np.array([]), np.array([])).shape == (0,)
    found = cluster_duplicates(np.array([]), np.array([]), np.empty((0, 5)), lambda _i, _j: True)
    assert found.label.shape == found.size.shape == found.representative.shape == (0,)


@pytest.mark.parametrize(("energy", "z"), [(np.nan, 1), (np.inf, 1), (1.0, 0)])
def test_impossible_energies_raise(energy, z):
    with pytest.raises(ValueError, match="finite"):
        relative_lattice_energies(np.array([energy]), np.array([z]))


def test_order_is_unique_whatever_the_noise():
    energies = np.array([1.0, 0.0, 1.0 + 1e-9, 0.5])
    assert energy_order(energies, ["b", "d", "a", "c"]).tolist() == [1, 3, 2, 0]


def by_truth(truth, energies, densities=None, **windows):
    """Clusters of candidates whose true identity is known, and the pairs that were compared."""
    n = len(truth)
    asked = []

    def confirm(i, j):
        asked.append((i, j))
        return truth[i] == truth[j]

    found = cluster_duplicates(
        np.array(energies, dtype=float),
        np.full(n, 1.5) if densities is None else np.array(densities),
        np.zeros((n, 4)),
        confirm,
        DuplicateWindows(**windows),
    )
    return found, asked


def test_twins_on_both_sides_of_a_round_number_stay_together():
    found, _ = by_truth("aa", [0.999, 1.001], energy_kJ_mol=1.0)
    assert found.label.tolist() == [0, 0]
    found, _ = by_truth("aa", [0.0, 0.0], densities=[1.4999, 1.5001])
    assert found.label.tolist() == [0, 0]


def test_chains_longer_than_the_window_are_one_cluster():
    found, _ = by_truth("aaaa", [0.0, 0.7, 1.4, 2.1], energy_kJ_mol=1.0)
    assert found.label.tolist() == [0, 0, 0, 0]
    assert found.size.tolist() == [4] * 4
    assert found.representative.tolist() == [True, False, False, False]


def test_interleaved_clusters_are_numbered_by_their_lowest_member():
    found, _ = by_truth("abacbd", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.label.tolist() == [0, 1, 0, 2, 1, 3]
    assert found.size.tolist() == [2, 2, 2, 1, 2, 1]
    assert found.representative.tolist() == [True, True, False, True, False, True]


def test_a_late_candidate_joins_two_clusters_into_the_lower():
    joined = {(0, 2), (1, 2)}
    found = cluster_duplicates(
        np.array([0.0, 0.1, 0.2]),
        np.full(3, 1.5),
        np.zeros((3, 2)),
        lambda i, j: (i, j) in joined,
    )
    assert found.label.tolist() == [0, 0, 0]
    assert found.representative.tolist() == [True, False, False]


def chain(akin, energies=(0.0, 0.1, 0.2, 0.3)):
    """Four candidates, each the same as its neighbours only."""
    asked = []

    def resembles(i, j):
        asked.append((i, j))
        return akin(i, j)

    found = cluster_duplicates(
        np.array(energies), np.full(len(energies), 1.5), np.zeros((len(energies), 2)),
        lambda i, j: j - i == 1, None, resembles,
    )  # fmt: skip
    return found, asked


def test_a_representative_cuts_a_chain_of_near_twins():
    found, asked = chain(lambda i, j: j - i <= 2)
    assert found.label.tolist() == [0, 0, 0, 1]
    # The third and the fourth were confirmed against a neighbour, not against the first.
    assert asked == [(0, 2), (0, 3)]
    assert found.n_refused == 1


def test_a_representative_need_not_be_inside_the_windows():
    energies = (0.0, 0.8, 1.6, 2.4)
    found, asked = chain(lambda _i, _j: True, energies)
    assert found.label.tolist() == [0, 0, 0, 0]
    assert found.n_refused == 0
    assert asked == [(0, 2), (0, 3)]


def test_two_clusters_are_joined_only_when_their_representatives_are_akin():
    joined = {(0, 2), (1, 2)}
    for akin, label in ((True, [0, 0, 0]), (False, [0, 1, 0])):
        found = cluster_duplicates(
            np.array([0.0, 0.1, 0.2]), np.full(3, 1.5), np.zeros((3, 2)),
            lambda i, j: (i, j) in joined, None, lambda _i, _j, akin=akin: akin,
        )  # fmt: skip
        assert found.label.tolist() == label


def test_windows_keep_far_pairs_from_being_compared():
    assert by_truth("aa", [0.0, 1.1], energy_kJ_mol=1.0)[1] == []
    assert by_truth("aa", [0.0, 0.1], densities=[1.5, 1.56])[1] == []
    assert by_truth("aa", [0.0, 0.1], densities=[1.5, 1.54])[1] == [(0, 1)]
    asked = []
    amd = np.array([[0.0, 0.0], [0.0, 0.3], [np.nan, 0.0]])
    found = cluster_duplicates(
        np.zeros(3), np.full(3, 1.5), amd, lambda i, j: asked.append((i, j)) or True
    )
    assert asked == []
    assert found.size.tolist() == [1, 1, 1]


def test_members_of_one_cluster_cost_few_comparisons():
    n = 60
    truth = ["a"] * n + ["b"] * n
    found, asked = by_truth(truth, np.linspace(0.0, 0.5, 2 * n))
    assert len(set(found.label.tolist())) == 2
    # a's: one comparison each; b's: at most three against a, one against b.
    assert len(asked) <= (n - 1) + n * 4
    assert found.n_confirmations == len(asked)


def test_nearest_invariant_is_tried_first():
    asked = []
    amd = np.array([[0.0], [0.15], [0.14]])
    cluster_duplicates(
        np.array([0.0, 0.1, 0.2]), np.full(3, 1.5), amd, lambda i, j: asked.append((i, j))
    )
    assert asked == [(0, 1), (1, 2), (0, 2)]


def test_unsorted_energies_are_refused():
    with pytest.raises(ValueError, match="sorted"):
        by_truth("ab", [1.0, 0.0])
