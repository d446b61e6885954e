"""Reflections and profiles against known values."""

import numpy as np
import pytest
from pydantic import ValidationError
from pymatgen.analysis.diffraction.xrd import XRDCalculator

from packflow_core.analysis.pxrd_patterns import (
    PxrdParams,
    find_reflections,
    histogram,
    peak_shape,
    profile,
)
from packflow_core.crystal.crystal import Crystal

PARAMS = PxrdParams(b_iso_A2=0.0)


@pytest.fixture(scope="module")
def cubic() -> Crystal:
    """One carbon in a cube of 5 Å."""
    return Crystal([6], [[0, 0, 0]], np.eye(3) * 5.0, 1)


def test_angles_follow_from_bragg(cubic):
    found = find_reflections(cubic, PARAMS)
    expected = 5.0 / np.sqrt([1, 2, 3, 4, 5, 6, 8])
    assert found.d[:7] == pytest.approx(expected)
    assert found.angles(1.54184)[0] == pytest.approx(
        2 * np.degrees(np.arcsin(1.54184 / 10.0)), abs=1e-9
    )
    assert np.abs(found.hkl[2]).tolist() == [1, 1, 1]
    # A cell with edges 2 % longer, and one so small that nothing is in reach.
    assert found.angles(1.54184, 1.02)[0] == pytest.approx(
        2 * np.degrees(np.arcsin(1.54184 / 10.2)), abs=1e-9
    )
    assert np.isnan(found.angles(1.54184, 0.1)).all()
    assert (found.intensities(PARAMS, 0.1) == 0).all()


def test_intensities_are_those_of_pymatgen(triclinic):
    found = find_reflections(triclinic, PARAMS)
    reference = XRDCalculator(wavelength=1.54184).get_pattern(
        triclinic.to_pymatgen(), scaled=False, two_theta_range=(3, 50)
    )
    angles = found.angles(PARAMS.wavelength_A)
    inside = (angles >= 3) & (angles <= 50)
    assert angles[inside] == pytest.approx(reference.x, abs=1e-6)
    assert found.intensities(PARAMS)[inside] == pytest.approx(reference.y, rel=1e-9)


def test_displacements_weaken_high_angles(cubic):
    found = find_reflections(cubic, PARAMS)
    ratio = found.intensities(PxrdParams(b_iso_A2=3.0)) / found.intensities(PARAMS)
    # exp(-2 B sin^2 / lambda^2) with sin / lambda = 1 / 2d
    assert ratio == pytest.approx(np.exp(-2 * 3.0 / (2 * found.d) ** 2))


def test_profile_keeps_areas_and_places(cubic):
    found = find_reflections(cubic, PARAMS)
    angles, heights = found.angles(PARAMS.wavelength_A), found.intensities(PARAMS)
    inside = (angles > 3) & (angles < 49)
    sticks = histogram(found, PARAMS)
    assert sticks.sum() == pytest.approx(heights[(angles > 3) & (angles < 50)].sum())
    curve = profile(found, PARAMS)
    grid = PARAMS.grid()
    assert curve.max() == pytest.approx(100.0)
    assert (len(curve), grid[0], grid[-1]) == (2351, 3.0, pytest.approx(50.0))
    first = (grid > angles[0] - 2) & (grid < angles[0] + 2)
    assert grid[first][curve[first].argmax()] == pytest.approx(angles[0], abs=0.011)
    near = [(np.abs(grid - a) < 1.5) for a in angles[inside][:3]]
    areas = np.array([curve[m].sum() for m in near])
    assert areas / areas[0] == pytest.approx(heights[inside][:3] / heights[0], rel=0.02)
    assert profile(found, PARAMS, 0.1).max() == 0.0


def test_peaks_have_the_width_asked_for():
    params = PxrdParams(fwhm_deg=0.2, step_deg=0.002)
    shape = peak_shape(params)
    assert shape.sum() == pytest.approx(1.0)
    wide = np.flatnonzero(shape >= shape.max() / 2)
    assert (wide[-1] - wide[0]) * params.step_deg == pytest.approx(0.2, abs=0.005)


def test_scaled_cells_find_all_their_reflections(cubic):
    """A cell larger by the largest factor has as many reflections in the range as its own."""
    params = PxrdParams(max_volume_factor=1.3)
    scale = params.scales()[-1]
    grown = Crystal([6], [[0, 0, 0]], np.eye(3) * 5.0 * scale, 1)
    moved = find_reflections(cubic, params).angles(params.wavelength_A, scale)
    own = find_reflections(grown, params).angles(params.wavelength_A)
    assert moved[moved <= 50] == pytest.approx(own[own <= 50])


def test_impossible_settings():
    with pytest.raises(ValidationError, match="at least 5 degrees"):
        PxrdParams(low_deg=48)
    with pytest.raises(ValidationError):
        PxrdParams(wavelength_A=0.0)
    assert 1.0 in PxrdParams().scales()
