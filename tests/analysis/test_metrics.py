"""The paper's metrics against golden numbers of the published code, and their invariances."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.analysis import metrics
from packflow_core.analysis.neighbors import nearest_distances
from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.crystal.contacts import neighbour_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "metrics.npz"
CASES = ("ortho_small_noise", "monoclinic_missing_elements_clashing", "identical")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return dict(data)


def pair_of(golden, case):
    z = golden[f"{case}/z"]
    return tuple(
        Crystal(z, golden[f"{case}/{w}_x"], parameters_to_cell(golden[f"{case}/{w}_lattice"]))
        for w in ("pred", "true")
    )


@pytest.mark.parametrize("case", CASES)
def test_golden_density_clash_and_amd(golden, case):
    predicted, reference = pair_of(golden, case)
    found = metrics.heavy_atom_metrics(predicted, reference, metrics.PUBLISHED)
    want = {k.rsplit("/", 1)[1]: float(v) for k, v in golden.items() if f"{case}/metric/" in k}
    assert found.density_error_percent == pytest.approx(want["density_mape_pct"], rel=1e-4)
    assert found.clash_percent == pytest.approx(want["clash_total_pct"], abs=1e-4)
    assert found.amd_linf_A == pytest.approx(want["amd_linf"], abs=1e-4)
    for which, crystal in (("pred", predicted), ("true", reference)):
        assert np.allclose(metrics.amd(crystal), golden[f"{case}/amd100_{which}"], atol=1e-5)
        assert metrics.density(crystal, metrics.PUBLISHED) == pytest.approx(
            float(golden[f"{case}/density_{which}"]), rel=1e-5
        )


@pytest.mark.parametrize("case", CASES)
def test_golden_wasserstein_of_the_golden_histograms(golden, case):
    p, q = (golden[f"{case}/rdf_counts_{w}"].astype(float) for w in ("pred", "true"))
    assert metrics.histogram_wasserstein(p, q, 0.1) == pytest.approx(
        float(golden[f"{case}/metric/rdf_wasserstein"]), abs=1e-6
    )
    assert metrics.histogram_wasserstein(p[:50], q[:50], 0.1) == pytest.approx(
        float(golden[f"{case}/metric/rdf_wasserstein_short_range"]), abs=1e-6
    )


@pytest.mark.parametrize("case", CASES)
def test_golden_histograms_up_to_pairs_on_a_bin_edge(golden, case):
    """Single precision moved pairs on an edge (lattice translations of 6.0 Å, say) at random.

    So the cumulative counts must lie between those of all distances shrunk and grown by 1e-5 Å.
    """
    edges = np.linspace(0.0, 10.0, 101)[1:]
    for which, crystal in zip(("pred", "true"), pair_of(golden, case), strict=True):
        distance = np.sort(neighbour_pairs(crystal.positions, crystal.cell, 10.1).distance)
        want = golden[f"{case}/rdf_counts_{which}"].cumsum()
        ours = metrics.rdf_counts(crystal).cumsum()
        low, high = (np.searchsorted(distance, edges + e) for e in (-1e-4, 1e-4))
        assert ((low <= want) & (want <= high)).all()
        assert ((low <= ours) & (ours <= high)).all()
        assert (high - low).sum() < 0.08 * len(distance)


def test_standard_table_knows_the_elements_the_published_one_lacks():
    assert [metrics.PUBLISHED.radii[n] for n in (5, 14, 33, 34)] == [0.70] * 4
    assert metrics.STANDARD.radii[[5, 14, 33, 34]].tolist() == [0.84, 1.11, 1.19, 1.20]
    assert metrics.PUBLISHED.masses[14] == 0.0
    assert metrics.STANDARD.masses[14] == pytest.approx(28.085)
    known = [1, 6, 7, 8, 9, 15, 16, 17, 35, 53]
    assert np.array_equal(metrics.PUBLISHED.radii[known], COVALENT_RADII[known])


def random_crystal(seed: int, n: int = 9) -> Crystal:
    rng = np.random.default_rng(seed)
    cell = parameters_to_cell([*rng.uniform(5, 9, 3), *rng.uniform(62, 118, 3)])
    while not np.isfinite(cell).all() or np.linalg.det(cell) < 60:
        cell = parameters_to_cell([*rng.uniform(5, 9, 3), *rng.uniform(62, 118, 3)])
    numbers = rng.choice([6, 7, 8, 16], n)
    return Crystal(numbers, rng.uniform(-1, 2, (n, 3)) @ cell, cell)


def in_other_setting(crystal: Crystal, seed: int) -> Crystal:
    """The same crystal: sheared cell, moved origin, atoms shuffled, translated and reflected."""
    rng = np.random.default_rng(seed)
    transform = np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]])
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(len(crystal))
    lattice = rng.integers(-2, 3, (len(crystal), 3)) @ crystal.cell
    positions = (crystal.positions + lattice + rng.normal(size=3))[order] @ q
    cell = transform @ crystal.cell @ q
    return Crystal(crystal.numbers[order], positions, cell if np.linalg.det(cell) > 0 else -cell)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000))
def test_everything_is_invariant_to_the_setting(seed):
    crystal = random_crystal(seed)
    other = in_other_setting(crystal, seed + 1)
    assert np.allclose(metrics.amd(crystal), metrics.amd(other), atol=1e-9)
    assert metrics.clash_rate(crystal) == pytest.approx(metrics.clash_rate(other))
    assert metrics.rdf_wasserstein(crystal, other) == pytest.approx(0.0, abs=1e-9)
    double = crystal.repeated((1, 2, 1))
    assert np.allclose(metrics.amd(crystal), metrics.amd(double), atol=1e-9)
    assert metrics.rdf_wasserstein(crystal, double, short=True) == pytest.approx(0.0, abs=1e-9)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000))
def test_amd_equals_the_authors_package(seed):
    amd = pytest.importorskip("amd")
    crystal = random_crystal(seed)
    frac = crystal.fractional
    wrapped = (frac - np.floor(frac)) @ crystal.cell
    theirs = amd.AMD(amd.PeriodicSet(wrapped, crystal.cell), 100)
    assert np.allclose(metrics.amd(crystal, 100), theirs, atol=1e-6)


def test_amd_of_the_simple_cubic_lattice():
    crystal = Crystal([6], [[0.3, 0.1, 0.9]], np.eye(3) * 2.0)
    want = [2.0] * 6 + [2.0 * 2**0.5] * 12 + [2.0 * 3**0.5] * 8
    assert np.allclose(metrics.amd(crystal, 26), want)


def test_thin_cells_need_many_images_but_give_exact_distances():
    crystal = Crystal([6, 8], [[0, 0, 0], [0.5, 4, 6]], np.diag([2.1, 14.0, 25.0]))
    found = nearest_distances(crystal, 60)
    grid = np.stack(np.meshgrid(*[np.arange(-70, 71), np.arange(-6, 7), np.arange(-4, 5)]), -1)
    shifts = grid.reshape(-1, 3) @ crystal.cell
    images = np.concatenate([p + shifts for p in crystal.positions])
    for i in range(2):
        brute = np.sort(np.linalg.norm(images - crystal.positions[i], axis=1))[1:61]
        assert np.allclose(found[i], brute)


def test_clash_rate_counts_atoms_not_pairs():
    """Atom 0 and 1 are too close, atom 2 is alone, atom 3 touches only its own image."""
    cell = np.diag([30.0, 30.0, 30.0])
    x = [[0, 0, 0], [1.1, 0, 0], [10, 10, 10]]
    assert metrics.clash_rate(Crystal([6, 6, 6], x, cell)) == pytest.approx(200 / 3)
    # 0.75 (0.76 + 0.76) = 1.14 Å; strictly closer counts.
    x[1][0] = 1.1401
    assert metrics.clash_rate(Crystal([6, 6, 6], x, cell)) == 0.0
    assert metrics.clash_rate(Crystal([6], [[0, 0, 0]], np.diag([1.0, 9.0, 9.0]))) == 100.0


def test_hydrogens_are_left_out(triclinic, monoclinic):
    assert metrics.heavy_atom_metrics(triclinic, monoclinic) == metrics.heavy_atom_metrics(
        triclinic.heavy_only(), monoclinic.heavy_only()
    )


def test_errors_are_errors():
    empty = Crystal([], np.empty((0, 3)), np.eye(3) * 5)
    one = Crystal([6], [[0, 0, 0]], np.eye(3) * 20)
    for wrong in (metrics.amd, metrics.clash_rate, metrics.rdf_counts):
        with pytest.raises(ValueError, match="no atoms"):
            wrong(empty)
    with pytest.raises(ValueError, match="histogram is empty"):
        metrics.rdf_wasserstein(one, one)
    with pytest.raises(ValueError, match="no mass"):
        metrics.density_error(one, empty)
    with pytest.raises(ValueError, match="too flat"):
        metrics.rdf_counts(Crystal([6], [[0, 0, 0]], np.diag([1e-5, 60.0, 60.0])))
    with pytest.raises(ValueError, match="collapsed"):
        metrics.amd(Crystal([6] * 200, np.arange(600.0).reshape(200, 3), np.diag([1e-5, 60, 60])))
    with pytest.raises(ValueError, match="at least 1"):
        metrics.amd(one, 0)
