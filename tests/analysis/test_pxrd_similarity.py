"""The similarity of patterns, and the cell that fits a measured one best."""

import numpy as np
import pytest

from packflow_core.analysis.pxrd_measured import MeasuredPattern
from packflow_core.analysis.pxrd_patterns import PxrdParams, find_reflections, profile
from packflow_core.analysis.pxrd_similarity import compare, similarity

PARAMS = PxrdParams(shift_deg=1.0)
GRID = PARAMS.grid()


def peak(at: float, width: float = 0.1) -> np.ndarray:
    return np.exp(-((GRID - at) ** 2) / (2 * width**2))


def everywhere(values: np.ndarray) -> MeasuredPattern:
    return MeasuredPattern(values, np.ones(len(values), dtype=bool))


def test_equal_shifted_and_foreign_peaks():
    assert similarity(peak(20), 3.7 * peak(20), PARAMS) == pytest.approx(1.0)
    shifts = [0.1, 0.3, 0.6, 0.9]
    values = [similarity(peak(20), peak(20 + s), PARAMS) for s in shifts]
    assert np.all(np.diff(values) < 0)
    # With narrow peaks it is the triangle itself, 1 - s / l.
    narrow = [similarity(peak(20, 0.02), peak(20 + s, 0.02), PARAMS) for s in shifts]
    assert narrow == pytest.approx([1 - s for s in shifts], abs=0.03)
    assert similarity(peak(20), peak(23), PARAMS) == pytest.approx(0.0, abs=1e-9)
    assert similarity(peak(20), np.zeros_like(GRID), PARAMS) == 0.0
    wide = PxrdParams(shift_deg=2.0)
    assert similarity(peak(20), peak(20.6), wide) > similarity(peak(20), peak(20.6), PARAMS)
    half = similarity(peak(20) + peak(30), peak(20) + peak(40), PARAMS)
    assert half == pytest.approx(0.5, abs=1e-6)


def test_a_grown_cell_is_found(triclinic, monoclinic):
    """A crystal with edges 2 % longer stands for the measured one."""
    grown = triclinic.with_positions(triclinic.positions * 1.02, triclinic.cell * 1.02)
    measured = everywhere(profile(find_reflections(grown, PARAMS), PARAMS))
    found = compare(find_reflections(triclinic, PARAMS), measured, PARAMS)
    assert found.volume_factor == pytest.approx(1.02**3, abs=0.004)
    # Not exactly 1, because the molecule grew, too.
    assert found.similarity_scaled > 0.98
    assert found.similarity < found.similarity_scaled - 0.02
    other = compare(find_reflections(monoclinic, PARAMS), measured, PARAMS)
    assert other.similarity_scaled < found.similarity_scaled - 0.2


def test_the_unscaled_similarity_is_that_of_the_profiles(triclinic, monoclinic):
    first = find_reflections(triclinic, PARAMS)
    second = profile(find_reflections(monoclinic, PARAMS), PARAMS)
    found = compare(first, everywhere(second), PARAMS)
    expected = similarity(profile(first, PARAMS), second, PARAMS)
    assert found.similarity == pytest.approx(expected, abs=2e-3)
    itself = compare(first, everywhere(profile(first, PARAMS)), PARAMS)
    assert itself.similarity == pytest.approx(1.0)
    assert itself.volume_factor == pytest.approx(1.0)


def test_only_what_was_measured_is_compared(triclinic, monoclinic):
    pattern = profile(find_reflections(triclinic, PARAMS), PARAMS)
    covered = GRID <= 25.0
    wrong_above = np.where(covered, pattern, 100.0 * np.random.default_rng(0).random(len(GRID)))
    reflections = find_reflections(triclinic, PARAMS)
    assert compare(reflections, MeasuredPattern(wrong_above, covered), PARAMS).similarity > 0.999
    nothing = MeasuredPattern(np.zeros_like(GRID), covered)
    assert compare(reflections, nothing, PARAMS).similarity_scaled == 0.0
