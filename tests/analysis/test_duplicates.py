"""Known duplicates are found, in any setting, and nothing else; what each test decided is told."""

import numpy as np
import pytest

from packflow_core.analysis import duplicates, overlay
from packflow_core.analysis.duplicates import DuplicateLimits, amd_columns, find_duplicates
from packflow_core.analysis.ranking import DuplicateWindows
from packflow_core.baselines.random_packing import PackParams, pack
from packflow_core.chem.conformers import conformer_pool
from packflow_core.crystal.crystal import Crystal, right_handed

SHAKE = 0.02


@pytest.fixture(scope="module")
def packings(molecule):
    """Ten random packings of one molecule."""
    shape = conformer_pool(molecule, 1).positions[0]
    params = PackParams(volume_factor=1.2)
    found = [pack(molecule.numbers_h, shape, (2, 4)[k % 2], 1, k, params) for k in range(10)]
    return [one.packing.crystal() for one in found]


def copy(crystal, rng, supercell=False):
    """The crystal in another cell, origin, order and orientation, in either hand, shaken."""
    one = crystal.repeated((1, 1, 2)) if supercell else crystal
    molecules = one.positions.reshape(one.z, -1, 3) + SHAKE * rng.normal(size=(one.z, 1, 3))
    molecules += (rng.integers(-1, 2, (one.z, 3)) @ one.cell)[:, None]
    frame, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    cell = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ one.cell @ frame
    moved = molecules[rng.permutation(one.z)].reshape(-1, 3) + rng.normal(size=3)
    return Crystal(one.numbers, moved @ frame, right_handed(cell), one.z)


def landscape(packings, rng):
    truth = np.repeat(np.arange(len(packings)), 4)
    energy = truth * 0.3 + 0.05 * rng.normal(size=len(truth))
    order = np.argsort(energy)
    crystals = [copy(packings[truth[k]], rng, supercell=k % 5 == 0) for k in order]
    return crystals, energy[order] - energy.min(), truth[order]


def same_partition(label, truth):
    return np.array_equal(label[:, None] == label, np.asarray(truth)[:, None] == truth)


def search(crystals, energy, limits=None):
    return find_duplicates(crystals, energy, [amd_columns(c) for c in crystals], limits)


def test_copies_in_any_setting_are_found_and_packings_kept_apart(packings):
    crystals, energy, truth = landscape(packings, np.random.default_rng(0))
    clusters, effort = search(crystals, energy)
    assert same_partition(clusters.label, truth)
    assert clusters.size.tolist() == [4] * len(truth)
    assert clusters.representative.sum() == len(packings)
    # Every duplicate was proved by a superposition; oxtalign was not needed.
    assert (effort.proved, effort.compared) == (len(truth) - len(packings), 0)


def test_oxtalign_decides_where_molecules_have_too_many_symmetries(packings, monkeypatch):
    monkeypatch.setattr(overlay, "MAX_SYMMETRIES", 0)
    overlay._graph_maps.cache_clear()
    crystals, energy, truth = landscape(packings[:4], np.random.default_rng(1))
    clusters, effort = search(crystals, energy)
    overlay._graph_maps.cache_clear()
    assert same_partition(clusters.label, truth)
    assert effort.proved == 0
    assert effort.compared_same >= len(truth) - 4


def test_close_invariants_are_no_proof(packings):
    """With wide windows every pair is compared, and still only copies are joined."""
    crystals, energy, truth = landscape(packings[:5], np.random.default_rng(2))
    wide = DuplicateLimits(windows=DuplicateWindows(100.0, 10.0, 100.0))
    clusters, effort = search(crystals, energy, wide)
    assert same_partition(clusters.label, truth)
    assert effort.excluded > 0


def test_a_distance_of_pdds_excludes(packings):
    crystals = [packings[0], copy(packings[0], np.random.default_rng(3))]
    never = DuplicateLimits(pdd_A=0.0, rmsd_A=0.001)
    clusters, effort = search(crystals, np.zeros(2), never)
    assert clusters.size.tolist() == [1, 1]
    assert (effort.proved, effort.excluded, effort.compared) == (0, 1, 0)


def test_a_chain_of_near_twins_ends_at_the_radius_of_its_cluster(packings):
    """Each is near the one before; the last is far from the first."""
    first = packings[1]
    molecules = first.positions.reshape(first.z, -1, 3)
    way = np.zeros((first.z, 1, 3))
    way[: first.z // 2] = [1.0, 0.0, 0.0]
    chain = [first.with_positions((molecules + 0.3 * k * way).reshape(-1, 3)) for k in range(8)]
    limits = DuplicateLimits(windows=DuplicateWindows(1.0, 0.1, 1.0), pdd_A=1.0, rmsd_A=0.2)
    clusters, effort = search(chain, 0.01 * np.arange(8.0), limits)
    assert effort.refused > 0
    assert 1 < len(np.unique(clusters.label)) < 8
    heads = {int(c): k for k, c in reversed(list(enumerate(clusters.label)))}
    for k, label in enumerate(clusters.label.tolist()):
        found = overlay.overlay(
            overlay.OverlayCrystal(chain[heads[label]]), overlay.OverlayCrystal(chain[k])
        )
        assert found.full
        assert found.rmsd <= duplicates.CLUSTER_RADIUS * limits.rmsd_A


def test_a_packing_that_is_part_of_another_is_no_duplicate(build):
    """One of four layers is shifted: the plain crystal is in the other whole, but not back."""
    layer = build("P 1", (7.2, 8.1, 9.0, 81, 98, 107), [(0.23, 0.31, 0.27)], turn=130)
    plain = layer.repeated((1, 1, 4))
    positions = plain.positions.copy()
    positions[3 * len(layer) :] += [1.8, 0.0, 0.0]
    faulted = plain.with_positions(positions)
    a, b = overlay.OverlayCrystal(plain), overlay.OverlayCrystal(faulted)
    assert (len(a.independent), len(b.independent)) == (1, 4)
    assert overlay.overlay(a, b).rmsd == pytest.approx(0.0, abs=1e-9)
    limits = DuplicateLimits(windows=DuplicateWindows(1.0, 0.1, 10.0), pdd_A=10.0, shell_size=15)
    for pair in ([plain, faulted], [faulted, plain]):
        assert search(pair, np.zeros(2), limits)[0].label.tolist() == [0, 1]
    assert search([plain, layer], np.zeros(2), limits)[0].label.tolist() == [0, 0]


def test_a_crystal_without_invariant_is_a_duplicate_of_nothing(packings):
    one = packings[0]
    clusters, _ = find_duplicates(
        [one, one, one], np.zeros(3), [amd_columns(one), None, amd_columns(one)]
    )
    assert clusters.label.tolist() == [0, 1, 0]


def test_nothing_to_search():
    clusters, _ = find_duplicates([], np.zeros(0), [])
    assert len(clusters.label) == 0
