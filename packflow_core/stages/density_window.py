"""A window of density or volume: candidates outside it are rejected as soon as they are made."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from packflow_core.chem.elements import AMU_PER_A3_TO_G_CM3
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.store.rows import Row
from packflow_core.store.schema import Reason, Status

#: Lowest and highest value that is let through, both included; None for an open end.
Window = tuple[float | None, float | None]

#: Windows as far off the expected volume as this factor are slips of the pen, or of the unit.
_FAR = 2.0
#: A window with an open end is aimed at this far inside, as a fraction of the volume.
_INSIDE = 0.03
#: Factors of the expected volume that a sampler is ever asked for.
_SCALES = (0.7, 1.4)


def parse_window(value: Any) -> Any:
    """A window written as `1.2:1.6`, `1.2:` or `:1.6`; a pair stays as it is.

    Raises:
        ValueError: anything else.
    """
    if value is None or (isinstance(value, list | tuple) and len(value) == 2):
        return value
    low, colon, high = value.partition(":") if isinstance(value, str) else ("", "", "")
    if colon:
        with contextlib.suppress(ValueError):
            return [float(text) if text.strip() else None for text in (low, high)]
    raise ValueError("a window is LOW:HIGH, for example 1.2:1.6, 1.2: or :1.6, or a pair")


def check_window(value: Window | None) -> Window | None:
    """The window, if something can lie in it.

    Raises:
        ValueError: with what is wrong.
    """
    if value is None:
        return None
    low, high = value
    given = [end for end in value if end is not None]
    if not given:
        return None
    if any(not math.isfinite(end) or end <= 0 for end in given):
        raise ValueError("the ends of a window are positive numbers")
    if low is not None and high is not None and low >= high:
        raise ValueError("the lower end of a window comes first, and is below the upper one")
    return value


def check_reachable(molecule: Molecule, density: Window | None, volume: Window | None) -> None:
    """Refuse windows that no crystal of the molecule can be in, such as one in kg/m3.

    Args:
        molecule: the molecule.
        density: g/cm3.
        volume: Å3 a molecule.

    Raises:
        UserInputError: a window is far from what such molecules pack at, or the two exclude each
            other.
    """
    expected = expected_molecular_volume(molecule)
    for name, window, unit, usual in (
        ("density", density, "g/cm3", _to_density(molecule, expected)),
        ("volume", volume, "Å3 a molecule", expected),
    ):
        low, high = window or (None, None)
        if (low is not None and low > _FAR * usual) or (high is not None and high < usual / _FAR):
            raise UserInputError(
                f"The {name} window {_words(window)} {unit} is out of reach: about {usual:.3g} "
                f"{unit} is expected of {molecule.formula}; check the unit."
            )
    low, high = _volume_window(molecule, density, volume)
    if low is not None and high is not None and low >= high:
        raise UserInputError(
            "No crystal is in the density window and in the volume window at once; give one of "
            "the two."
        )


def expected_molecular_volume(molecule: Molecule) -> float:
    """Volume in Å3 that a molecule usually takes up in a crystal, good to about 5 %."""
    from packflow_core.model.prior import expected_volume

    return expected_volume(molecule.numbers, int(molecule.hydrogen_counts.sum()))


def volume_scale(molecule: Molecule, density: Window | None, volume: Window | None) -> float:
    """Factor of the expected volume that a sampler should aim at.

    1 where the windows hold the expected volume: then they only filter, and the candidates are
    those of a run without them. Otherwise the factor leads to the middle of the window, or just
    inside where one end is open.

    Args:
        molecule: the molecule.
        density: g/cm3.
        volume: Å3 a molecule.
    """
    low, high = _volume_window(molecule, density, volume)
    expected = expected_molecular_volume(molecule)
    if (low is None or low <= expected) and (high is None or expected <= high):
        return 1.0
    if low is not None and high is not None:
        aim = 0.5 * (low + high)
    else:
        aim = low * (1 + _INSIDE) if low is not None else (high or expected) * (1 - _INSIDE)
    return min(max(aim / expected, _SCALES[0]), _SCALES[1])


def apply_windows(row: Row, density: Window | None, volume: Window | None) -> Row:
    """The row, rejected where its crystal is outside a window; its crystal stays in it.

    Args:
        row: of the stage `generate`; only `ok` ones are looked at.
        density: g/cm3.
        volume: Å3 a molecule.
    """
    if row.get("status") != Status.OK:
        return row
    found = float(row["density_g_cm3"]), float(row["volume_A3"]) / int(row["z"])
    for name, window, unit, value in (
        ("density", density, "g/cm3", found[0]),
        ("volume", volume, "Å3 a molecule", found[1]),
    ):
        low, high = window or (None, None)
        side = "below" if low is not None and value < low else ""
        side = "above" if high is not None and value > high else side
        if side:
            row.update(
                status=str(Status.REJECTED),
                reason=str(Reason.DENSITY),
                detail=f"{name} {value:.4g} {unit} is {side} the window {_words(window)}",
            )
            return row
    return row


def _volume_window(molecule: Molecule, density: Window | None, volume: Window | None) -> Window:
    """Both windows as one of volume, Å3 a molecule."""
    low, high = volume or (None, None)
    lightest, densest = density or (None, None)
    if densest is not None:
        smallest = _to_density(molecule, densest)
        low = smallest if low is None else max(low, smallest)
    if lightest is not None:
        largest = _to_density(molecule, lightest)
        high = largest if high is None else min(high, largest)
    return low, high


def _to_density(molecule: Molecule, volume: float) -> float:
    """Density in g/cm3 of a volume in Å3 a molecule, and the other way round."""
    return molecule.mass * AMU_PER_A3_TO_G_CM3 / volume


def _words(window: Window | None) -> str:
    low, high = window or (None, None)
    if low is None:
        return f"up to {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"
