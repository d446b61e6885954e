"""Powder X-ray diffraction patterns of crystals: reflections, and profiles on a grid of angles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from packflow_core.crystal.crystal import Crystal

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Cu K-alpha, the mean of the doublet weighted 2 : 1, in Å.
CU_K_ALPHA_A = 1.54184

#: Isotropic steps of the cell's edges that a comparison tries, as a fraction.
SCALE_STEP = 0.0005


class PxrdParams(BaseModel):
    """Radiation, range and profile of simulated patterns, and how they are compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wavelength_A: float = Field(
        CU_K_ALPHA_A, gt=0.1, le=5, allow_inf_nan=False, description="of the radiation, Å"
    )
    low_deg: float = Field(3.0, ge=0.5, lt=170, description="lowest 2 theta, degrees")
    high_deg: float = Field(50.0, gt=1, le=175, description="highest 2 theta, degrees")
    step_deg: float = Field(0.02, ge=0.002, le=0.2, description="step of the profile, degrees")
    fwhm_deg: float = Field(
        0.1, gt=0, le=2, description="full width of a peak at half its height, degrees"
    )
    lorentz_fraction: float = Field(
        0.5, ge=0, le=1, description="Lorentzian share of the pseudo-Voigt peaks"
    )
    b_iso_A2: float = Field(
        3.0, ge=0, le=50, description="displacement parameter B of all atoms, Å2; 0: atoms at rest"
    )
    shift_deg: float = Field(
        2.0,
        gt=0,
        le=10,
        description="largest shift of a peak that still counts as similar, degrees; the half width "
        "of the triangle of the weighted cross-correlation",
    )
    min_volume_factor: float = Field(
        0.95, gt=0.3, le=1, description="smallest volume, over the relaxed one, that is tried"
    )
    max_volume_factor: float = Field(
        1.15, ge=1, lt=3, description="largest volume, over the relaxed one, that is tried"
    )
    subtract_background: bool = Field(
        True, description="take the background off the measured pattern"
    )
    background_deg: float = Field(
        1.0, gt=0, le=20, description="half width of the widest feature that is no background"
    )

    @model_validator(mode="after")
    def _range(self) -> PxrdParams:
        if self.high_deg - self.low_deg < 5.0:
            raise ValueError("high_deg must lie at least 5 degrees above low_deg")
        return self

    def grid(self) -> FloatArray:
        """Angles 2 theta of a profile, degrees."""
        n = round((self.high_deg - self.low_deg) / self.step_deg) + 1
        return np.asarray(self.low_deg + self.step_deg * np.arange(n), dtype=np.float64)

    def scales(self) -> FloatArray:
        """Factors of the cell's edges that a comparison tries, 1 among them."""
        low = math.floor((self.min_volume_factor ** (1 / 3) - 1) / SCALE_STEP)
        high = math.ceil((self.max_volume_factor ** (1 / 3) - 1) / SCALE_STEP)
        return np.asarray(1.0 + SCALE_STEP * np.arange(low, high + 1), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Reflections:
    """Reflections of a crystal.

    Attributes:
        d: [R] spacings in Å, the largest first.
        strength: [R] squared structure factors times multiplicity, without the Lorentz and
            polarisation factor, which depends on the angle.
        hkl: [R, 3] one of the equivalent reflections of the cell the crystal is given in.
    """

    d: FloatArray
    strength: FloatArray
    hkl: IntArray

    def angles(self, wavelength: float, scale: float = 1.0) -> FloatArray:
        """[R] 2 theta in degrees of the cell with all edges times `scale`; NaN out of reach."""
        sine = wavelength / (2.0 * scale * self.d)
        with np.errstate(invalid="ignore"):
            return np.asarray(2.0 * np.degrees(np.arcsin(np.where(sine < 1.0, sine, np.nan))))

    def intensities(self, params: PxrdParams, scale: float = 1.0) -> FloatArray:
        """[R] integrated intensities, in no unit; 0 out of reach."""
        theta = np.radians(self.angles(params.wavelength_A, scale)) / 2.0
        with np.errstate(invalid="ignore"):
            sine = np.sin(theta)
            factor = (1 + np.cos(2 * theta) ** 2) / (sine**2 * np.cos(theta))
            factor *= np.exp(-2.0 * params.b_iso_A2 * (sine / params.wavelength_A) ** 2)
        return np.asarray(np.nan_to_num(self.strength * factor), dtype=np.float64)


def find_reflections(crystal: Crystal, params: PxrdParams) -> Reflections:
    """Reflections of a crystal that any of the tried cells has in the range, by pymatgen.

    Args:
        crystal: with its hydrogens.
        params: wavelength and range.
    """
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    # A cell that grows brings reflections in from above the range, one that shrinks from below.
    scales = params.scales()
    low, high = (
        2.0 * math.degrees(math.asin(min(1.0, math.sin(math.radians(angle / 2.0)) * factor)))
        for angle, factor in ((params.low_deg, scales[0]), (params.high_deg, scales[-1]))
    )
    margin = 5.0 * params.fwhm_deg
    pattern = XRDCalculator(wavelength=params.wavelength_A).get_pattern(
        crystal.to_pymatgen(),
        scaled=False,
        two_theta_range=(max(0.1, low - margin), min(179.0, high + margin)),
    )
    theta = np.radians(np.asarray(pattern.x, dtype=np.float64)) / 2.0
    polarisation = (1 + np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
    first = [families[0]["hkl"] for families in pattern.hkls]
    return Reflections(
        d=np.asarray(pattern.d_hkls, dtype=np.float64),
        strength=np.asarray(pattern.y, dtype=np.float64) / polarisation,
        # Of hexagonal cells pymatgen gives four indices, h k i l.
        hkl=np.array([(*hkl[:2], hkl[-1]) for hkl in first], dtype=np.int64).reshape(-1, 3),
    )


def profile(reflections: Reflections, params: PxrdParams, scale: float = 1.0) -> FloatArray:
    """Intensity on `params.grid()`, its maximum 100; all zero without a reflection in the range.

    Args:
        reflections: of `find_reflections` with the same parameters.
        params: grid and profile.
        scale: factor of the edges of the cell.
    """
    out = histogram(reflections, params, scale)
    kernel = peak_shape(params)
    out = np.convolve(out, kernel)[len(kernel) // 2 :][: len(params.grid())]
    highest = float(out.max(initial=0.0))
    return out * (100.0 / highest) if highest > 0 else out


def histogram(reflections: Reflections, params: PxrdParams, scale: float = 1.0) -> FloatArray:
    """Integrated intensities on the grid, each shared by the two points around its angle."""
    n = len(params.grid())
    place = (reflections.angles(params.wavelength_A, scale) - params.low_deg) / params.step_deg
    height = reflections.intensities(params, scale)
    inside = (place >= 0) & (place < n - 1)
    left = np.floor(place[inside]).astype(np.int64)
    share = place[inside] - left
    out = np.bincount(left, height[inside] * (1 - share), n)
    out += np.bincount(left + 1, height[inside] * share, n)
    return np.asarray(out, dtype=np.float64)


def peak_shape(params: PxrdParams) -> FloatArray:
    """Pseudo-Voigt peak on an odd number of steps around its maximum, its sum 1."""
    reach = max(1, math.ceil(10.0 * params.fwhm_deg / params.step_deg))
    x = np.arange(-reach, reach + 1) * params.step_deg / (params.fwhm_deg / 2.0)
    gauss = np.exp(-math.log(2.0) * x**2)
    lorentz = 1.0 / (1.0 + x**2)
    shape = (1 - params.lorentz_fraction) * gauss / gauss.sum()
    return np.asarray(shape + params.lorentz_fraction * lorentz / lorentz.sum(), dtype=np.float64)
