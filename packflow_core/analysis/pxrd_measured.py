"""A measured powder pattern: a text file of two columns, on the grid of the simulated ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.pxrd_patterns import PxrdParams
from packflow_core.errors import UserInputError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Points that make a pattern, and the part of the range that it must cover, degrees.
_MIN_POINTS = 50
_MIN_OVERLAP_DEG = 5.0
_MAX_BYTES = 50_000_000


@dataclass(frozen=True, eq=False)
class MeasuredPattern:
    """A measured pattern on the grid of the simulated ones.

    Attributes:
        intensity: [G] on `PxrdParams.grid()`, its maximum 100; 0 where nothing was measured.
        covered: [G] where the file has data.
    """

    intensity: FloatArray
    covered: BoolArray


def read_pattern(path: str | Path, params: PxrdParams) -> MeasuredPattern:
    """Read a measured pattern.

    Lines that do not begin with two numbers (headers, comments) are passed over before the first
    data line; columns are separated by blanks, tabs, commas or semicolons; a third column, the
    uncertainty, is ignored.

    Args:
        path: text file, 2 theta in degrees (ascending or descending) and intensity.
        params: the grid, and what happens to the background.

    Raises:
        UserInputError: no such file, or not such a pattern; the sentence says what is wrong.
    """
    name = f"The pattern '{path}'"
    angles, counts = _columns(_text(Path(path), name), name)
    if (np.diff(angles) < 0).all():
        angles, counts = angles[::-1], counts[::-1]
    if (np.diff(angles) <= 0).any():
        at = int(np.flatnonzero(np.diff(angles) <= 0)[0])
        raise UserInputError(
            f"{name} has angles that do not ascend (after {angles[at]:g} degrees); give 2 theta "
            "in degrees, with a decimal point, in the first column, in ascending order."
        )
    if len(angles) < _MIN_POINTS:
        raise UserInputError(
            f"{name} has {len(angles)} points; a profile with at least {_MIN_POINTS} is needed, "
            "a list of peaks is not enough."
        )
    if angles[0] < -5.0 or angles[-1] > 180.0:
        raise UserInputError(
            f"{name} goes from {angles[0]:g} to {angles[-1]:g} in its first column; give 2 theta "
            "in degrees."
        )
    grid = params.grid()
    covered = (grid >= angles[0]) & (grid <= angles[-1])
    if covered.sum() * params.step_deg < _MIN_OVERLAP_DEG:
        raise UserInputError(
            f"{name} covers {angles[0]:g} to {angles[-1]:g} degrees, of which less than "
            f"{_MIN_OVERLAP_DEG:g} lie in {params.low_deg:g} to {params.high_deg:g}; give a "
            "pattern of that range, or set low_deg and high_deg."
        )
    values = np.where(covered, np.interp(grid, angles, _smoothed(angles, counts, params)), 0.0)
    if params.subtract_background:
        inside = np.flatnonzero(covered)
        values[inside] -= background(values[inside], params)
    values = np.clip(values, 0.0, None)
    highest = float(values.max(initial=0.0))
    if not highest > 0:
        raise UserInputError(f"{name} has no intensity in its second column but zeros.")
    return MeasuredPattern(values * (100.0 / highest), covered)


def background(values: FloatArray, params: PxrdParams) -> FloatArray:
    """Background of a pattern [n] by peak clipping (SNIP).

    Features narrower than twice `params.background_deg` are cut off. Source: Ryan et al., Nucl.
    Instrum. Methods B 1988, 34, 396, with the compressing transform of Morháč et al.
    """
    low = float(min(values.min(initial=0.0), 0.0))
    v = np.log(np.log(np.sqrt(values - low + 1.0) + 1.0) + 1.0)
    for reach in range(max(1, round(params.background_deg / params.step_deg)), 0, -1):
        if 2 * reach >= len(v):
            continue
        mean = 0.5 * (v[: -2 * reach] + v[2 * reach :])
        v[reach:-reach] = np.minimum(v[reach:-reach], mean)
    return np.asarray((np.exp(np.exp(v) - 1.0) - 1.0) ** 2 - 1.0 + low, dtype=np.float64)


def _text(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserInputError(f"{name} is larger than 50 MB; give a text file of two columns.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserInputError(
            f"{name} cannot be read ({error.strerror}); give a text file of two columns."
        ) from error
    except UnicodeDecodeError as error:
        raise UserInputError(
            f"{name} is not a text file; export it from the diffractometer's program as two "
            "columns, 2 theta and intensity."
        ) from error


def _columns(text: str, name: str) -> tuple[FloatArray, FloatArray]:
    """The first two columns of the data lines."""
    rows: list[tuple[float, float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = re.split(r"[\s,;]+", line.strip())
        try:
            pair = (float(fields[0]), float(fields[1]))
        except (ValueError, IndexError):
            if not rows or not line.strip() or line.lstrip()[0] in "#!;/":
                continue
            raise UserInputError(
                f"{name} has no two numbers in line {number} ('{line.strip()[:40]}'); give 2 theta "
                "and intensity in each line, with a decimal point."
            ) from None
        rows.append(pair)
    if not rows:
        raise UserInputError(
            f"{name} has no line of two numbers; give 2 theta in degrees and intensity, one point "
            "a line."
        )
    table = np.array(rows, dtype=np.float64)
    if not np.isfinite(table).all():
        raise UserInputError(f"{name} has a value that is not a finite number.")
    return table[:, 0], table[:, 1]


def _smoothed(angles: FloatArray, counts: FloatArray, params: PxrdParams) -> FloatArray:
    """Counts whose steps are finer than the grid, averaged over a step of it."""
    step = float(np.median(np.diff(angles)))
    n = max(1, round(params.step_deg / step))
    if n == 1:
        return counts
    width = n if n % 2 else n + 1
    padded = np.pad(counts, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1.0 / width), mode="valid")
