"""Coverage and Chao1 against published formulas, a peer's numbers and a simulation."""

import numpy as np
import pytest

from packflow_core.analysis.completeness import (
    chao1,
    chao_interval,
    completeness,
    coverage,
    draws_wanted,
    search_completeness,
)

#: Ten structures found once, four twice, and four more often.
SIZES = [1] * 10 + [2] * 4 + [3, 3, 5, 8]


def test_chao1_by_hand():
    # n = 37: 18 + 36/37 * 100 / 8.
    estimated, variance = chao1(37, 18, 10, 4)
    assert estimated == pytest.approx(18 + 36 / 37 * 12.5)
    a, r = 36 / 37, 2.5
    assert variance == pytest.approx(4 * (a * r**2 / 2 + a**2 * r**3 + a**2 * r**4 / 4))


def test_the_interval_is_that_of_scikit_bio():
    # skbio 0.7.4: chao1_ci(SIZES, bias_corrected=False), which has no factor (n - 1)/n, and in its
    # variance 0.24 where Chao 1987 has 1/4; z is 1.96.
    variance = 4 * (2.5**2 / 2 + 2.5**3 + 0.24 * 2.5**4)
    low, high = chao_interval(SIZES, 30.5, variance)
    assert (low, high) == pytest.approx((20.95155545, 70.93818885), rel=1e-4)


def test_without_doubles_the_bias_corrected_form_counts():
    # skbio: chao1([1, 1, 1, 5, 6, 9]) = 9.0 without the factor (n - 1)/n.
    estimated, variance = chao1(23, 6, 3, 0)
    assert estimated == pytest.approx(6 + 22 / 23 * 3)
    low, high = chao_interval([1, 1, 1, 5, 6, 9], estimated, variance)
    assert 6 < low < estimated < high


def test_nothing_missing_leaves_an_interval_from_the_counts():
    found = completeness([2, 3, 4, 5])
    assert (found.estimated, found.missing, found.coverage) == (4.0, 0.0, 1.0)
    assert found.low == 4.0
    assert 4.0 < found.high < 6.0
    assert completeness([50, 60]).high == pytest.approx(2.0, abs=1e-6)


def test_coverage_by_hand():
    # Chao and Jost 2012, eq. 4a: 1 - f1/n [(n-1) f1 / ((n-1) f1 + 2 f2)].
    assert coverage(37, 10, 4) == pytest.approx(1 - 10 / 37 * 360 / 368)
    assert coverage(20, 0, 3) == 1.0
    # Never above Good's 1 - f1/n by more than the second order.
    assert 1 - 10 / 37 <= coverage(37, 10, 4) <= 1 - 10 / 37 * (1 - 8 / 360)


@pytest.mark.parametrize("counts", [(37, 10, 4), (500, 30, 1), (23, 3, 0)])
def test_the_forecast_reaches_its_target_and_no_draw_earlier(counts):
    more = draws_wanted(*counts, 0.95)
    assert coverage(*counts, more=more) >= 0.95 > coverage(*counts, more=more - 1)


def test_singles_alone_cannot_be_forecast():
    assert draws_wanted(8, 8, 0, 0.95) is None
    assert completeness([1] * 8).draws_wanted is None


def test_a_simulated_search_is_seen_through():
    """100 structures, drawn unevenly: true coverage near the estimate, Chao1 a lower bound."""
    rng = np.random.default_rng(7)
    weights = rng.exponential(size=100)
    weights /= weights.sum()
    errors, inside, estimates = [], 0, []
    for _ in range(60):
        drawn = rng.choice(100, size=150, p=weights)
        seen, sizes = np.unique(drawn, return_counts=True)
        found = completeness(sizes.tolist())
        errors.append(found.coverage - weights[seen].sum())
        estimates.append(found.estimated)
        inside += found.low <= 100 <= found.high
    assert abs(np.mean(errors)) < 0.01
    assert len(seen) < np.mean(estimates) < 105
    assert inside > 40


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="at least once"):
        completeness([1, 0])
    assert completeness([]).coverage is None


def rows(found):
    """Ranked rows of (energy, times found)."""
    out = []
    for cluster, (energy, times) in enumerate(found, start=1):
        out += [
            {"rank": len(out) + k + 1, "cluster": cluster, "lattice_energy_rel_kJ_mol": energy}
            for k in range(times)
        ]
    return [*out, {"rank": None, "cluster": None}]


def test_the_window_looks_at_low_structures_alone():
    found = search_completeness(rows([(0.0, 8), (3.0, 6), (7.0, 2), (9.0, 1), (30.0, 1)]))
    assert (found.overall.structures, found.overall.once) == (5, 2)
    assert (found.low_energy.structures, found.low_energy.draws) == (3, 16)
    assert found.advice.startswith("Enough for this generator: 100% of the draws within 7.2")


def test_advice_to_sample_more_names_a_number():
    found = search_completeness(
        rows([(0.0, 4), (1.0, 2), (2.0, 2), *((3.0 + k / 9, 1) for k in range(6)), (20.0, 14)])
    )
    low = found.low_energy
    assert low.draws == 14
    # Draws outside of the window have to be paid for, too: 28 candidates gave 14 inside.
    asked = low.draws_wanted * 28 / 14
    number = int(found.advice.split("about ")[1].split()[0])
    assert asked <= number < asked * 1.1 + 1
    assert "Sample more" in found.advice


def test_advice_where_nothing_can_be_told():
    few = search_completeness(rows([(0.0, 3), (40.0, 90)]))
    assert "only 3 of 93 ranked candidates" in few.advice
    singles = search_completeness(rows([(k / 9, 1) for k in range(12)]))
    assert "every structure within 7.2 kJ/mol of the minimum (12) was found once" in singles.advice
    assert "Nothing was ranked" in search_completeness([]).advice
