"""The short tables of a comparison, for its page and for the terminal, from its document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

#: What `report.document` gives, and what `comparison.json` holds.
Document = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


class Numbers:
    """The numbers of a comparison by leg and name.

    Args:
        document: of the comparison.
    """

    def __init__(self, document: Document) -> None:
        self.legs = [str(leg["name"]) for leg in document["legs"]]
        self.window = f"{document['settings']['window_kJ_mol']:g} kJ/mol"
        self.has_known_form = document["known_form"] is not None
        self.metrics: list[dict[str, Any]] = document["metrics"]
        self._found = {(m["leg"], m["other"], m["kind"], m["metric"]): m for m in self.metrics}

    @property
    def device(self) -> str:
        """The device whose hours count: gpu where any leg used one, else cpu."""
        on_gpu = any((self.value(leg, "gpu_hours") or 0.0) > 0 for leg in self.legs)
        return "gpu" if on_gpu else "cpu"

    def metric(self, leg: str, name: str, other: str = "") -> dict[str, Any] | None:
        """A number of a leg, or the overlap of two; None where there is none."""
        return self._found.get((leg, other, "overlap" if other else "value", name))

    def value(self, leg: str, name: str) -> float | None:
        """Value of a number of a leg; None where there is none."""
        found = self.metric(leg, name)
        return None if found is None else found["value"]


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table: so many figures, whole numbers as they are, a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e-9:  # rounding noise
        return "0"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def with_interval(metric: dict[str, Any] | None) -> str:
    """Value and interval: ``12 (8 to 19)``, ``below 3`` for an upper bound, a dash for none."""
    if metric is None or metric["value"] is None:
        return "–"
    digits = 4 if metric["unit"] == "g/cm3" else 3
    if metric["interval"] == "Poisson upper bound":
        return f"below {number(metric['high'], digits)}"
    text = number(metric["value"], digits)
    if metric["low"] is None:
        return text
    return f"{text} ({number(metric['low'], digits)} to {number(metric['high'], digits)})"


def numeric(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers, and so is set to the right."""
    return all(cell[:1] in "0123456789-–" or cell.startswith("below") for cell in cells)


def outcome_table(numbers: Numbers) -> Table:
    """What became of the candidates, a row a leg."""
    titles = ["leg", "tried", "ranked", "unconv.", "rejected", "failed", "CPU h"]
    names = ["candidates", "ranked", "unconverged", "rejected", "failed", "cpu_hours"]
    if numbers.device == "gpu":
        titles.append("GPU h")
        names.append("gpu_hours")
    titles.append("s each")
    names.append("seconds_per_candidate")
    rows = [[leg, *(number(numbers.value(leg, name)) for name in names)] for leg in numbers.legs]
    return titles, rows


def energy_table(numbers: Numbers) -> Table:
    """Energies, a row a leg."""
    titles = ["leg", "lowest", "lowest of half", "lowest at equal compute"]
    names = ["energy_lowest", "energy_lowest_of_half", "energy_lowest_at_equal_compute"]
    return titles, _intervals(numbers, names)


def median_table(numbers: Numbers) -> Table:
    """Median energies, a row a leg."""
    titles = ["leg", "median before relaxation", "median after"]
    return titles, _intervals(numbers, ["energy_before", "energy_after"])


def density_table(numbers: Numbers) -> Table:
    """Densities, a row a leg."""
    titles, names = ["leg", "before", "after"], ["density_before", "density_after"]
    if numbers.has_known_form:
        titles += ["error before, %", "error after, %"]
        names += ["density_error_before", "density_error_after"]
    return titles, _intervals(numbers, names)


def found_table(numbers: Numbers) -> Table:
    """Hits and structures low in energy, a row a leg."""
    hour = f"per {numbers.device.upper()} h"
    titles = ["leg", "hits", f"hits {hour}", f"within {numbers.window}", f"those {hour}"]
    names = ["hits", f"hits_per_{numbers.device}_hour", "low_energy",
             f"low_energy_per_{numbers.device}_hour"]  # fmt: skip
    return titles, _intervals(numbers, names)


def basin_table(numbers: Numbers) -> Table:
    """Distinct structures inside the window, a row a leg."""
    return ["leg", "basins", "only here"], _intervals(numbers, ["basins", "basins_only_here"])


def overlap_table(numbers: Numbers) -> Table:
    """Basins that pairs of legs share, a row a pair."""
    rows = []
    for metric in numbers.metrics:
        if metric["kind"] == "overlap" and metric["metric"] == "basin_overlap":
            shared = numbers.metric(metric["leg"], "basins_shared", metric["other"])
            pair = f"{metric['leg']} and {metric['other']}"
            rows.append([pair, with_interval(shared), with_interval(metric)])
    return ["legs", "shared basins", "over all that either found"], rows


def difference_table(numbers: Numbers) -> Table:
    """Differences of pairs of legs, a row each."""
    rows = []
    for metric in numbers.metrics:
        if metric["kind"] != "difference":
            continue
        unit = f", {metric['unit']}" if metric["unit"] else ""
        low, high = metric["low"], metric["high"]
        certain = low is not None and (low > 0 or high < 0)
        rows.append([
            f"{metric['leg']} minus {metric['other']}", f"{metric['description']}{unit}",
            with_interval(metric), "yes" if certain else "no",
        ])  # fmt: skip
    return ["legs", "number", "difference", "interval without 0"], rows


def loss_table(document: Document) -> Table:
    """Where and why candidates were lost, a row each."""
    rows = [
        [leg["name"], loss["stage"], loss["outcome"], loss["reason"] or "no reason",
         str(loss["count"])]
        for leg in document["legs"]
        for loss in leg["losses"]
    ]  # fmt: skip
    return ["leg", "stage", "ended", "reason", "candidates"], rows


def _intervals(numbers: Numbers, names: Sequence[str]) -> list[list[str]]:
    return [
        [leg, *(with_interval(numbers.metric(leg, name)) for name in names)] for leg in numbers.legs
    ]
