"""Which distinct structures each leg found, and what two legs share."""

import math

import numpy as np
import pytest
from race_runs import Candidate

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.race.basins import (
    Basins,
    count_interval,
    found_changes,
    only_changes,
    only_in,
    overlap,
    present,
    scaled_interval,
    shared_changes,
)
from packflow_core.race.legs import read_legs
from packflow_core.race.resampling import bootstrap
from packflow_core.race.scale import common_scale
from packflow_core.race.union import find_basins

SMILES = "CC(O)c1ccc(Cl)nc1"


# -- sets -------------------------------------------------------------------------------------
def test_a_basin_is_present_when_one_of_its_members_was_drawn():
    labels = np.array([2, -1, 0, 2, 0])
    counts = np.array([[1, 1, 1, 1, 1], [0, 5, 0, 0, 0], [0, 0, 0, 3, 2]])
    np.testing.assert_array_equal(
        present(labels, counts, 4),
        [[True, False, True, False], [False] * 4, [True, False, True, False]],
    )
    assert not present(np.array([-1, -1]), counts[:, :2], 3).any()


def test_overlaps_are_those_of_sets():
    rng = np.random.default_rng(0)
    a, b, c = (rng.random((50, 12)) < 0.3 for _ in range(3))
    found = overlap(a, b)
    for k in range(50):
        x, y, z = (set(np.flatnonzero(leg[k])) for leg in (a, b, c))
        assert found.shared[k] == len(x & y)
        assert found.jaccard[k] == pytest.approx(len(x & y) / len(x | y) if x | y else math.nan,
                                                 nan_ok=True)  # fmt: skip
        assert only_in([a, b, c], 1)[k] == len(y - x - z)


def test_what_each_leg_found():
    basins = Basins(
        (np.array([0, 0, -1]), np.array([1, 0])), np.array([0.0, 2.0]), np.array([False, True])
    )
    np.testing.assert_array_equal(basins.found(), [[True, False], [True, True]])


# -- intervals --------------------------------------------------------------------------------
def three_legs():
    rng = np.random.default_rng(4)
    labels = tuple(rng.integers(-1, 12, size=n) for n in (14, 9, 20))
    return Basins(labels, np.zeros(12), np.zeros(12, dtype=bool))


def deleted(basins, statistic):
    """Variance of a statistic of the found sets by deleting every candidate in turn."""
    variance = 0.0
    for k, labels in enumerate(basins.labels):
        values = []
        for i in range(len(labels)):
            less = list(basins.labels)
            less[k] = np.delete(labels, i)
            values.append(statistic([set(leg.tolist()) - {-1} for leg in less]))
        n = len(values)
        variance += (n - 1) / n * ((np.array(values) - np.mean(values)) ** 2).sum()
    return variance


@pytest.mark.parametrize(
    ("statistic", "changes"),
    [
        (lambda sets: len(sets[0]), lambda b: found_changes(b.labels[0], 12)),
        (lambda sets: len(sets[0] & sets[2]), lambda b: shared_changes(b, 0, 2)),
        (lambda sets: len(sets[2] - sets[0] - sets[1]), lambda b: only_changes(b, 2)),
    ],
    ids=["found", "shared", "only here"],
)
def test_count_intervals_are_the_delete_one_jackknife(statistic, changes):
    basins = three_legs()
    value = statistic([set(leg.tolist()) - {-1} for leg in basins.labels])
    half = 1.959964 * math.sqrt(deleted(basins, statistic))
    assert half > 0
    low, high = count_interval(value, changes(basins), 0.95)
    assert high == pytest.approx(value + half, rel=1e-5)
    assert low == pytest.approx(max(value - half, 0.0), rel=1e-5)


def test_no_candidates_have_no_interval():
    nothing = np.zeros(0, dtype=np.int64)
    assert all(map(math.isnan, count_interval(0, found_changes(nothing, 3), 0.95)))


def test_intervals_of_races_cover_what_races_give_on_average():
    """Plain percentiles of the counts cover next to nothing here."""
    rng = np.random.default_rng(1)
    share = 1 / np.sqrt(np.arange(1, 201))
    share /= share.sum()

    def draw():
        labels = rng.choice(200, size=64, p=share)
        labels[rng.random(64) < 0.3] = -1
        return labels

    def pair():
        return Basins((draw(), draw()), np.zeros(200), np.zeros(200, dtype=bool))

    def numbers(basins):
        own = basins.found()
        found = overlap(own[0], own[1])
        return own[0].sum(), found.shared, only_in(list(own), 0), found.jaccard

    truth = np.mean([numbers(pair()) for _ in range(1500)], axis=0)
    covered, plain = np.zeros(4), 0
    for trial in range(150):
        basins = pair()
        value = numbers(basins)
        again = [
            bootstrap(64, 200, (trial, k), lambda c, x=x: {"p": present(x, c, 200)})["p"]
            for k, x in enumerate(basins.labels)
        ]
        intervals = [
            count_interval(value[0], found_changes(basins.labels[0], 200), 0.95),
            count_interval(value[1], shared_changes(basins, 0, 1), 0.95),
            count_interval(value[2], only_changes(basins, 0), 0.95),
            scaled_interval(value[3], overlap(*again).jaccard, 0.95, 1.0),
        ]
        covered += [low <= t <= high for (low, high), t in zip(intervals, truth, strict=True)]
        low, high = np.percentile(again[0].sum(axis=1), [2.5, 97.5])
        plain += bool(low <= truth[0] <= high)
    assert (covered / 150 > 0.88).all(), covered / 150
    assert plain / 150 < 0.2


def test_a_scaled_interval_keeps_its_bounds():
    replicates = np.array([0.2, 0.3, 0.4])
    low, high = scaled_interval(0.6, replicates, 0.95, 1.0)
    assert (low, high) == (pytest.approx(2 * 0.205), pytest.approx(2 * 0.395))
    assert scaled_interval(0.9, replicates, 0.95, 1.0)[1] == 1.0
    assert all(map(math.isnan, scaled_interval(0.0, np.zeros(3), 0.95)))
    assert all(map(math.isnan, scaled_interval(math.nan, replicates, 0.95)))


# -- the union --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def packings():
    """Three packings of one molecule in P1, and the second one turned and moved."""
    from rdkit.Chem import AllChem

    molecule = Molecule.from_smiles(SMILES)
    mol = AllChem.Mol(molecule.rdmol_h)
    AllChem.EmbedMolecule(mol, randomSeed=7)
    shape = mol.GetConformer().GetPositions()

    def crystal(edges):
        return Crystal(molecule.numbers_h, shape, np.diag(edges), 1)

    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    a, b, c = crystal([9.0, 8.0, 7.0]), crystal([10.5, 7.0, 7.0]), crystal([8.0, 8.6, 7.4])
    moved = Crystal(b.numbers, b.positions @ turn + 1.7, b.cell @ turn, 1)
    return a, b, moved, c


def test_structures_of_two_legs_share_basins_across_candidate_ids(write, packings, inline):
    a, b, moved, c = packings

    def one(crystal, energy, **more):
        return Candidate(crystal=crystal, energy=energy, density=crystal.density, **more)

    first = [one(a, 0.0, match=True), one(b, 5.0), Candidate(end=("relax", "failed", "nan"))]
    second = [one(c, 30.0), one(moved, 5.1), one(c, 3.0), one(c, 3.1)]
    legs = read_legs([
        write("a", first, smiles=SMILES, z=[1]),
        write("b", second, smiles=SMILES, z=[1], generator="random+press"),
    ])  # fmt: skip
    found = find_basins(legs, common_scale(legs), 20.0, legs[0].folder / "log")
    # By energy: a alone, both of c, then b, which both legs have. One c lies above the window.
    assert [labels.tolist() for labels in found.labels] == [[0, 2, -1], [-1, 2, 1, 1]]
    np.testing.assert_allclose(found.energy, [0.0, 3.0, 5.0], atol=1e-9)
    assert found.match.tolist() == [True, False, False]
    own = found.found()
    assert overlap(own[0], own[1]).jaccard == pytest.approx(1 / 3)


def test_nothing_inside_the_window_is_no_basin(write, inline):
    lost = [Candidate(end=("relax", "failed", "nan"))]
    legs = read_legs([write("a", lost), write("b", lost, generator="random+press")])
    found = find_basins(legs, common_scale(legs), 20.0, legs[0].folder / "log")
    assert len(found) == 0
    assert found.found().shape == (2, 0)
