"""How similar two powder patterns are, peaks a little apart included.

The weighted cross-correlation of de Gelder, Wehrens and Hageman, J. Comput. Chem. 2001, 22, 273:

    S = c_fg / sqrt(c_ff c_gg),   c_fg = sum_r w(r) sum_x f(x) g(x + r),   w(r) = 1 - |r| / l

for |r| < l: 1 for equal patterns, and a peak may be off by up to l. Relaxed cells are those of
atoms at rest, mostly some percent smaller than measured ones, so that all peaks are off, at high
angles by more than l. `best_scale` lets the cell grow or shrink as a whole first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from packflow_core.analysis.pxrd_measured import MeasuredPattern
from packflow_core.analysis.pxrd_patterns import (
    PxrdParams,
    Reflections,
    histogram,
    peak_shape,
)

FloatArray = NDArray[np.float64]

_BLOCK = 64


class PatternMatch(NamedTuple):
    """How a simulated pattern compares with a measured one.

    Attributes:
        similarity: of the relaxed cell, 0 to 1.
        similarity_scaled: of the cell that fits best, at least `similarity`.
        volume_factor: volume of that cell over the relaxed one.
    """

    similarity: float
    similarity_scaled: float
    volume_factor: float


def similarity(first: FloatArray, second: FloatArray, params: PxrdParams) -> float:
    """Weighted cross-correlation of two patterns [G] on one grid, 0 to 1.

    0 where one of them is empty.
    """
    f, g = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    weighted = _weighted(np.stack([f, g]), params)
    own = float(f @ weighted[0]) * float(g @ weighted[1])
    return min(1.0, float(f @ weighted[1]) / own**0.5) if own > 0 else 0.0


def compare(
    reflections: Reflections, measured: MeasuredPattern, params: PxrdParams
) -> PatternMatch:
    """Compare a crystal with a measured pattern, in the relaxed cell and in scaled ones.

    Args:
        reflections: of the crystal, `find_reflections` with the same parameters.
        measured: the pattern; only where it has data is anything compared.
        params: shift, and the range of volumes.
    """
    g = np.where(measured.covered, measured.intensity, 0.0)
    weighted = _weighted(g[None], params)[0]
    own = float(g @ weighted)
    scales = params.scales()
    found = np.zeros(len(scales))
    kernel = peak_shape(params)
    for begin in range(0, len(scales), _BLOCK):
        block = scales[begin : begin + _BLOCK]
        sticks = np.stack([histogram(reflections, params, float(s)) for s in block])
        f = fftconvolve(sticks, kernel[None], mode="same", axes=1)
        f = np.where(measured.covered, np.clip(f, 0.0, None), 0.0)
        norm = np.einsum("sx,sx->s", f, _weighted(f, params)) * own
        safe = np.where(norm > 0, norm, 1.0)
        found[begin : begin + _BLOCK] = np.where(norm > 0, (f @ weighted) / np.sqrt(safe), 0.0)
    found = np.clip(found, 0.0, 1.0)
    unscaled = int(np.argmin(np.abs(scales - 1.0)))
    # Of equal ones the least change of the cell.
    best = int(np.lexsort((np.abs(scales - 1.0), -np.round(found, 9)))[0])
    return PatternMatch(float(found[unscaled]), float(found[best]), float(scales[best] ** 3))


def _weighted(patterns: FloatArray, params: PxrdParams) -> FloatArray:
    """Patterns [P, G] convolved with the triangle."""
    reach = max(1, round(params.shift_deg / params.step_deg))
    triangle = 1.0 - np.abs(np.arange(-reach + 1, reach)) / reach
    return np.asarray(fftconvolve(patterns, triangle[None], mode="same", axes=1))
