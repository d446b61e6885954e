"""The common zero of all energies of a race, and where the known form lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.ranking import EV_TO_KJ_MOL
from packflow_core.race.legs import Leg

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """What energies and densities are measured against.

    Attributes:
        zero_eV: lowest energy per molecule among the ranked structures of all legs, after the
            last relaxation (paper, eq. 32); NaN where nothing was ranked.
        start_zero_eV: the same by the engine of `relax`, which energies before it are measured
            against; the lowest of those where nothing was ranked, NaN where nothing was relaxed.
        known_density: of the known form as its CIF has it, g/cm3; None without one.
        known_relaxed_density: after relaxation like a candidate, g/cm3; None where not relaxed.
        known_energy: of the relaxed known form above the zero, kJ/mol; None likewise.
    """

    zero_eV: float
    start_zero_eV: float
    known_density: float | None = None
    known_relaxed_density: float | None = None
    known_energy: float | None = None

    def above_zero(self, energy_eV: FloatArray) -> FloatArray:
        """[n] kJ/mol above the zero; NaN stays NaN."""
        return np.asarray((energy_eV - self.zero_eV) * EV_TO_KJ_MOL, dtype=np.float64)

    def start_above_zero(self, energy_eV: FloatArray) -> FloatArray:
        """[n] kJ/mol above the zero of the energies before `relax`."""
        return np.asarray((energy_eV - self.start_zero_eV) * EV_TO_KJ_MOL, dtype=np.float64)

    @property
    def density_after(self) -> float | None:
        """What densities after relaxation are measured against: the relaxed known form's.

        An engine may prefer another density than nature. That of the CIF where it was not relaxed.
        """
        relaxed = self.known_relaxed_density
        return self.known_density if relaxed is None else relaxed

    def density_error(self, density: FloatArray, *, after: bool) -> FloatArray:
        """[n] deviation from the known form's density, before or after relaxation, %.

        NaN without a known form.
        """
        known = self.density_after if after else self.known_density
        reference = np.nan if known is None else known
        return np.asarray(100.0 * np.abs(density - reference) / reference, dtype=np.float64)

    def with_known_form(
        self, density: float | None, relaxed_density: float | None, energy_eV: float | None
    ) -> Scale:
        """The scale with a known form; energy per molecule."""
        energy = None
        if energy_eV is not None and np.isfinite(self.zero_eV):
            energy = float(self.above_zero(np.array([energy_eV]))[0])
        return replace(
            self,
            known_density=density,
            known_relaxed_density=relaxed_density,
            known_energy=energy,
        )


def common_scale(legs: Sequence[Leg]) -> Scale:
    """The zero of all legs together, after they were cut."""
    starts = np.concatenate([leg.energy_relax[leg.ranked] for leg in legs])
    if not np.isfinite(starts).any():
        starts = np.concatenate([leg.energy_start for leg in legs])
    return Scale(_lowest(np.concatenate([leg.energy for leg in legs])), _lowest(starts))


def _lowest(energies: FloatArray) -> float:
    known = energies[np.isfinite(energies)]
    return float(known.min()) if len(known) else float("nan")
