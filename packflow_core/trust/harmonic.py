"""Harmonic vibrations: the free energy of a set of frequencies.

F(T) = sum of h nu / 2 + k T ln(1 - exp(-h nu / k T)) over all modes: the Helmholtz energy of
independent quantum oscillators, any textbook of statistical mechanics (for example Born and Huang,
Dynamical Theory of Crystal Lattices, 1954, section 16).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.units import kB
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

#: h in eV s times 1e12: energy of a quantum of 1 THz, eV (CODATA 2018, exact).
THZ_TO_EV = 4.135667696923859e-3
#: Wave numbers of 1 THz, 1/cm (exact).
THZ_TO_CM1 = 33.35640951981521

#: A mode below minus this is imaginary; between the two it is soft, and its frequency is not
#: known better than this, THz (3.3 1/cm).
SOFT_THZ = 0.1
#: Modes without a frequency: the crystal as a whole, moved.
N_ACOUSTIC = 3


@dataclass(frozen=True, eq=False)
class Modes:
    """The vibrations of a supercell.

    Attributes:
        frequencies_THz: [M] all but the three translations, ascending; imaginary ones negative.
        n_imaginary: those below -0.1 THz.
        n_soft: those within 0.1 THz of zero.
    """

    frequencies_THz: FloatArray
    n_imaginary: int
    n_soft: int

    @property
    def lowest_cm1(self) -> float:
        """Wave number of the lowest mode, 1/cm; negative where it is imaginary."""
        return float(self.frequencies_THz[0] * THZ_TO_CM1) if len(self.frequencies_THz) else 0.0

    def free_energy(self, temperature_K: float) -> float:
        """Vibrational free energy of the supercell in eV.

        Imaginary modes enter with their magnitude and soft ones with 0.1 THz, so that every
        crystal has as many modes; whether the number means anything is for the reader of
        `n_imaginary` to say.

        Args:
            temperature_K: 0 or more.
        """
        magnitude = np.maximum(np.abs(self.frequencies_THz), SOFT_THZ)
        return free_energy(magnitude, temperature_K)


def free_energy(frequencies_THz: ArrayLike, temperature_K: float) -> float:
    """Helmholtz energy in eV of oscillators [M], all above 0 THz, at a temperature in K.

    Raises:
        ValueError: a frequency that is not positive, or a negative temperature.
    """
    quanta = THZ_TO_EV * np.asarray(frequencies_THz, dtype=np.float64)
    if (quanta <= 0).any() or temperature_K < 0:
        raise ValueError("frequencies must be positive and temperatures not negative")
    zero_point = float(0.5 * quanta.sum())
    if temperature_K == 0:
        return zero_point
    heat = kB * temperature_K
    return zero_point + float(heat * np.log1p(-np.exp(-quanta / heat)).sum())


def modes_of(frequencies_THz: ArrayLike) -> Modes:
    """Modes of a supercell from its frequencies [3 N], the three translations among them.

    The translations are the three that lie next to zero.

    Raises:
        ValueError: fewer than three modes, or one that is not finite.
    """
    all_modes = np.asarray(frequencies_THz, dtype=np.float64).reshape(-1)
    if len(all_modes) < N_ACOUSTIC or not np.isfinite(all_modes).all():
        raise ValueError(f"{len(all_modes)} frequencies are no vibrations of a crystal")
    order = np.argsort(np.abs(all_modes), kind="stable")
    rest = np.sort(all_modes[order[N_ACOUSTIC:]])
    return Modes(rest, int((rest < -SOFT_THZ).sum()), int((np.abs(rest) <= SOFT_THZ).sum()))
