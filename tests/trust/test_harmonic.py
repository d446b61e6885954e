"""Free energies of oscillators, against formulas and ASE."""

import numpy as np
import pytest
from ase.thermochemistry import HarmonicThermo
from ase.units import kB

from packflow_core.trust.harmonic import (
    SOFT_THZ,
    THZ_TO_CM1,
    THZ_TO_EV,
    free_energy,
    modes_of,
)


def test_one_oscillator_by_hand():
    # h nu = k T: F = h nu / 2 + k T ln(1 - 1/e).
    quantum = THZ_TO_EV * 5.0
    found = free_energy([5.0], quantum / kB)
    assert found == pytest.approx(quantum * (0.5 + np.log(1 - np.exp(-1))), rel=1e-12)
    assert free_energy([5.0], 0.0) == pytest.approx(quantum / 2)


def test_hot_oscillators_are_classical():
    # F -> k T ln(h nu / k T), with a first correction of (h nu / k T)^2 / 24.
    heat = kB * 3000.0
    x = THZ_TO_EV * 1.0 / heat
    assert free_energy([1.0], 3000.0) == pytest.approx(heat * (np.log(x) + x**2 / 24), rel=1e-7)


def test_ase_agrees():
    frequencies = np.array([0.4, 2.0, 30.0, 90.0])
    for temperature in (10.0, 300.0):
        peer = HarmonicThermo(THZ_TO_EV * frequencies)
        wanted = peer.get_helmholtz_energy(temperature, verbose=False)
        assert free_energy(frequencies, temperature) == pytest.approx(wanted, rel=1e-6)


def test_units():
    from scipy.constants import c, e, h

    assert pytest.approx(h / e * 1e12, rel=1e-9) == THZ_TO_EV
    assert pytest.approx(1e12 / c / 100, rel=1e-12) == THZ_TO_CM1


def test_the_translations_are_the_three_next_to_zero():
    modes = modes_of([3.0, -2e-3, 1e-3, 2.0, 5e-4, 7.0])
    assert modes.frequencies_THz.tolist() == [2.0, 3.0, 7.0]
    assert (modes.n_imaginary, modes.n_soft) == (0, 0)
    assert modes.lowest_cm1 == pytest.approx(2.0 * THZ_TO_CM1)


def test_imaginary_and_soft_modes_are_counted_and_stay():
    modes = modes_of([0.0, 0.0, 0.0, -2.0, 0.05, 4.0])
    assert (modes.n_imaginary, modes.n_soft) == (1, 1)
    assert modes.lowest_cm1 < 0
    assert modes.free_energy(100.0) == pytest.approx(free_energy([2.0, SOFT_THZ, 4.0], 100.0))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="positive"):
        free_energy([0.0], 300.0)
    with pytest.raises(ValueError, match="no vibrations"):
        modes_of([1.0, 2.0])
    with pytest.raises(ValueError, match="no vibrations"):
        modes_of([1.0, np.nan, 2.0, 3.0])
