"""The numbers of a race: what each leg did, with intervals, and how two legs differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core.race import basins as basin
from packflow_core.race import curves
from packflow_core.race.basins import Basins
from packflow_core.race.curves import Curve
from packflow_core.race.legs import Leg, Outcome
from packflow_core.race.rates import draws_until_first, fraction_interval, rate_interval
from packflow_core.race.resampling import bootstrap, percentile_interval, resampled_medians
from packflow_core.race.scale import Scale
from packflow_core.race.settings import CompareSettings

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_HOUR_S = 3600.0

#: Unit and meaning of every metric. Energies are per molecule above the common zero.
METRICS: dict[str, tuple[str, str]] = {
    "candidates": ("", "candidates compared"),
    "ranked": ("", "candidates that were ranked"),
    "unconverged": ("", "candidates whose relaxation did not converge"),
    "rejected": ("", "candidates that a filter refused"),
    "failed": ("", "candidates that broke"),
    "ranked_fraction": ("", "ranked over compared candidates"),
    "cpu_hours": ("h", "working time on CPUs, generation to last relaxation"),
    "gpu_hours": ("h", "working time on GPUs, generation to last relaxation"),
    "seconds_per_candidate": ("s", "mean working time of a candidate, lost ones included"),
    "density_before": ("g/cm3", "median density at the start of relax"),
    "density_after": ("g/cm3", "median density of the ranked structures"),
    "density_error_before": (
        "%",
        "median deviation from the density of the known form at the start of relax",
    ),
    "density_error_after": (
        "%",
        "median deviation of the ranked structures from the density of the relaxed known form",
    ),
    "energy_before": ("kJ/mol", "median energy at the start of relax"),
    "energy_after": ("kJ/mol", "median energy of the ranked structures"),
    "energy_lowest": ("kJ/mol", "lowest energy"),
    "energy_lowest_of_half": ("kJ/mol", "expected lowest energy of half of the candidates"),
    "energy_lowest_at_equal_compute": (
        "kJ/mol",
        "expected lowest energy in the working time of the leg that had least",
    ),
    "energy_lowest_above_known_form": ("kJ/mol", "lowest energy above that of the known form"),
    "low_energy": ("", "structures inside the window above the common zero"),
    "low_energy_fraction": ("", "structures inside the window over compared candidates"),
    "low_energy_per_cpu_hour": ("1/h", "structures inside the window per hour on CPUs"),
    "low_energy_per_gpu_hour": ("1/h", "structures inside the window per hour on GPUs"),
    "hits": ("", "ranked structures that match the reference"),
    "hit_fraction": ("", "hits over compared candidates"),
    "hits_per_cpu_hour": ("1/h", "hits per hour on CPUs"),
    "hits_per_gpu_hour": ("1/h", "hits per hour on GPUs"),
    "candidates_until_hit": ("", "expected candidates until the first hit"),
    "energy_lowest_hit": ("kJ/mol", "lowest energy of a hit"),
    "basins": ("", "distinct structures inside the window"),
    "basins_only_here": ("", "distinct structures inside the window that no other leg found"),
    "basins_shared": ("", "distinct structures inside the window that both legs found"),
    "basin_overlap": ("", "shared basins over the basins that either leg found (Jaccard index)"),
}

#: Metrics whose differences between two legs have an interval.
_DIFFERENCES = (
    "ranked_fraction", "seconds_per_candidate", "density_error_before", "density_error_after",
    "energy_before", "energy_after", "energy_lowest_of_half", "energy_lowest_at_equal_compute",
    "low_energy_fraction",
)  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        leg: which leg.
        other: the second leg of an overlap or a difference (leg minus other); empty otherwise.
        kind: value, overlap or difference.
        metric: name, a key of `METRICS`.
        value: NaN where it does not exist.
        low, high: interval; NaN where there is none.
        interval: how it was made: "", "bootstrap", "binomial", "Poisson", "Poisson upper bound",
            "jackknife" or "bootstrap, scaled".
        n: candidates that it is about.
    """

    leg: str
    other: str
    kind: str
    metric: str
    value: float
    low: float
    high: float
    interval: str
    n: int

    @property
    def unit(self) -> str:
        """Unit; empty for counts and fractions."""
        return METRICS[self.metric][0]

    @property
    def description(self) -> str:
        """Meaning in words."""
        return METRICS[self.metric][1]

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON: None for NaN."""
        values = {**asdict(self), "unit": self.unit, "description": self.description}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }


@dataclass(frozen=True, eq=False)
class LegStatistics:
    """What the resamples of one leg gave.

    Attributes:
        values: statistics of the candidates themselves, by metric.
        replicates: [resamples] of each.
        by_samples, by_compute: lowest energy so far.
        found: [resamples, b] basins in each resample.
    """

    values: dict[str, float]
    replicates: dict[str, FloatArray]
    by_samples: Curve
    by_compute: Curve
    found: NDArray[np.bool_]


def leg_statistics(
    leg: Leg,
    scale: Scale,
    labels: IntArray,
    n_basins: int,
    shared_s: float,
    settings: CompareSettings,
    position: int,
) -> LegStatistics:
    """Bootstrap one leg.

    Args:
        leg: cut to the budget.
        scale: common zero and known form.
        labels: [n] basin of each candidate, -1 for none.
        n_basins: basins of all legs.
        shared_s: working time that every leg has, s.
        settings: resamples, confidence, seed, window.
        position: number of the leg, so that no two share their resamples.
    """
    n = len(leg)
    energy = scale.above_zero(leg.energy)
    grid = curves.sample_grid(n)
    half = max(1, n // 2)
    weights = curves.order_weights(n, np.append(grid, half)) if n else np.zeros((0, 1))
    per_candidate = {
        "energy_before": scale.start_above_zero(leg.energy_start),
        "energy_after": energy,
        "density_before": leg.density_start,
        "density_after": leg.density,
        "density_error_before": scale.density_error(leg.density_start, after=False),
        "density_error_after": scale.density_error(leg.density, after=True),
    }
    low_energy = energy <= settings.window_kJ_mol
    # Less than one candidate of this leg takes.
    too_short = shared_s < leg.cost_s.mean() * (1 - 1e-9) if n else True

    def statistic(counts: IntArray) -> dict[str, NDArray[Any]]:
        size = max(n, 1)
        out: dict[str, NDArray[Any]] = {
            name: resampled_medians(values, counts) for name, values in per_candidate.items()
        }
        out["ranked_fraction"] = counts @ leg.ranked / size
        out["low_energy_fraction"] = counts @ low_energy / size
        out["seconds_per_candidate"] = counts @ leg.cost_s / size
        ordered = curves.drawn_ascending(energy, counts)
        curve, found = curves.expected_lowest(ordered, weights)
        out["curve"], out["curve_found"] = curve[:, :-1], found[:, :-1]
        out["energy_lowest_of_half"] = curve[:, -1]
        out["energy_lowest"] = curve[:, -2] if n > 0 else np.full(len(counts), np.nan)
        shared = curves.along_compute(
            np.array([shared_s]), grid, out["seconds_per_candidate"], out["curve"]
        )[:, 0]
        out["energy_lowest_at_equal_compute"] = np.where(too_short, np.nan, shared)
        out["found"] = basin.present(labels, counts, n_basins)
        return out

    if n == 0:
        return _empty(settings.resamples, n_basins)
    own = statistic(np.ones((1, n), dtype=np.int64))
    again = bootstrap(n, settings.resamples, (settings.seed, position), statistic)
    by_samples = _curve(grid.astype(np.float64), own["curve"], again["curve"],
                        own["curve_found"][0], settings.confidence)  # fmt: skip
    return LegStatistics(
        values={name: float(value[0]) for name, value in own.items() if value.ndim == 1},
        replicates={name: value for name, value in again.items() if value.ndim == 1},
        by_samples=by_samples,
        by_compute=_over_compute(grid, own, again, by_samples, settings.confidence),
        found=again["found"],
    )


def leg_metrics(
    leg: Leg, scale: Scale, statistics: LegStatistics, settings: CompareSettings
) -> list[Metric]:
    """All metrics of one leg but those of basins."""
    n, counts, confidence = len(leg), leg.counts(), settings.confidence
    energy = scale.above_zero(leg.energy)
    out: list[Metric] = []

    def add(name: str, value: float, low: float = math.nan, high: float = math.nan,
            interval: str = "") -> None:  # fmt: skip
        out.append(Metric(leg.name, "", "value", name, value, low, high, interval, n))

    def add_fraction(name: str, count: int) -> None:
        low, high = fraction_interval(count, n, confidence)
        add(name, count / n if n else math.nan, low, high, "binomial")

    def add_rates(name: str, count: int) -> None:
        for device, seconds in (("cpu", leg.cpu_s), ("gpu", leg.gpu_s)):
            hours = float(seconds.sum()) / _HOUR_S
            low, high = rate_interval(count, hours, confidence)
            kind = "Poisson" if count else "Poisson upper bound"
            value = count / hours if hours > 0 else math.nan
            add(f"{name}_per_{device}_hour", value, low, high, kind if hours > 0 else "")

    def add_bootstrap(name: str) -> None:
        value = statistics.values.get(name, math.nan)
        low, high = _interval(statistics.replicates.get(name), value, confidence)
        add(name, value, low, high, "bootstrap")

    add("candidates", n)
    for outcome in Outcome:
        add(outcome.value, counts[outcome])
    add_fraction("ranked_fraction", counts[Outcome.RANKED])
    add("cpu_hours", float(leg.cpu_s.sum()) / _HOUR_S)
    add("gpu_hours", float(leg.gpu_s.sum()) / _HOUR_S)
    for name in ("seconds_per_candidate", "density_before", "density_after"):
        add_bootstrap(name)
    if scale.known_density is not None:
        add_bootstrap("density_error_before")
        add_bootstrap("density_error_after")
    for name in (
        "energy_before", "energy_after", "energy_lowest", "energy_lowest_of_half",
        "energy_lowest_at_equal_compute",
    ):  # fmt: skip
        add_bootstrap(name)
    if scale.known_energy is not None:
        lowest = out[[m.metric for m in out].index("energy_lowest")]
        add(
            "energy_lowest_above_known_form", lowest.value - scale.known_energy,
            lowest.low - scale.known_energy, lowest.high - scale.known_energy, "bootstrap",
        )  # fmt: skip
    low_energy = int((energy <= settings.window_kJ_mol).sum())
    add("low_energy", low_energy)
    add_fraction("low_energy_fraction", low_energy)
    add_rates("low_energy", low_energy)
    if leg.has_reference:
        hits = int(leg.match.sum())
        add("hits", hits)
        add_fraction("hit_fraction", hits)
        add_rates("hits", hits)
        add("candidates_until_hit", draws_until_first(hits, n))
        add("energy_lowest_hit", float(energy[leg.match].min()) if hits else math.nan)
    return out


def basin_metrics(
    legs: Sequence[Leg], found: Basins, statistics: Sequence[LegStatistics], confidence: float
) -> list[Metric]:
    """Basins of each leg, and those that pairs of legs share."""
    own, again = list(found.found()), [s.found for s in statistics]
    out = []
    for k, leg in enumerate(legs):
        for name, count, changes in (
            ("basins", own[k].sum(), basin.found_changes(found.labels[k], len(found))),
            ("basins_only_here", basin.only_in(own, k), basin.only_changes(found, k)),
        ):
            low, high = basin.count_interval(float(count), changes, confidence)
            out.append(
                Metric(leg.name, "", "value", name, float(count), low, high, "jackknife", len(leg))
            )
    for i, a in enumerate(legs):
        for j, b in enumerate(legs[:i]):
            value, replicates = basin.overlap(own[j], own[i]), basin.overlap(again[j], again[i])
            n, shared, jaccard = len(a) + len(b), float(value.shared), float(value.jaccard)
            low, high = basin.count_interval(shared, basin.shared_changes(found, j, i), confidence)
            out.append(
                Metric(b.name, a.name, "overlap", "basins_shared", shared, low, high, "jackknife",
                       n)
            )  # fmt: skip
            low, high = basin.scaled_interval(jaccard, replicates.jaccard, confidence, 1.0)
            out.append(
                Metric(b.name, a.name, "overlap", "basin_overlap", jaccard, low, high,
                       "bootstrap, scaled", n)
            )  # fmt: skip
    return out


def difference_metrics(
    legs: Sequence[Leg], statistics: Sequence[LegStatistics], confidence: float
) -> list[Metric]:
    """Differences of the metrics of each pair of legs, the later one minus the earlier one."""
    out = []
    for i, a in enumerate(legs):
        for j, b in enumerate(legs[:i]):
            for name in _DIFFERENCES:
                ours, theirs = statistics[i], statistics[j]
                if name not in ours.values or name not in theirs.values:
                    continue
                value = ours.values[name] - theirs.values[name]
                replicates = ours.replicates[name] - theirs.replicates[name]
                low, high = _interval(replicates, value, confidence)
                if math.isfinite(value):
                    out.append(
                        Metric(a.name, b.name, "difference", name, value, low, high, "bootstrap",
                               len(a) + len(b))
                    )  # fmt: skip
    return out


def _interval(
    replicates: FloatArray | None, value: float, confidence: float
) -> tuple[float, float]:
    if replicates is None or not math.isfinite(value):
        return math.nan, math.nan
    low, high = percentile_interval(replicates, confidence)
    return float(low), float(high)


def _curve(
    x: FloatArray, own: FloatArray, again: FloatArray, found: FloatArray, confidence: float
) -> Curve:
    low, high = percentile_interval(again, confidence)
    return Curve(x, own[0], low, high, found)


def _over_compute(
    grid: IntArray,
    own: dict[str, NDArray[Any]],
    again: dict[str, NDArray[Any]],
    by_samples: Curve,
    confidence: float,
) -> Curve:
    x = np.asarray(grid * float(own["seconds_per_candidate"][0]), dtype=np.float64)
    bands = curves.along_compute(x, grid, again["seconds_per_candidate"], again["curve"])
    return _curve(x, own["curve"], bands, by_samples.found, confidence)


def _empty(resamples: int, n_basins: int) -> LegStatistics:
    nothing = np.zeros(0)
    curve = Curve(nothing, nothing, nothing, nothing, nothing)
    return LegStatistics({}, {}, curve, curve, np.zeros((resamples, n_basins), dtype=np.bool_))
