"""How complete a search is, from how often each structure was found.

Every ranked candidate is a draw, every cluster of duplicates a species; f1 structures were found
once, f2 twice. The estimators are those of ecology:

* coverage, the share of further draws that would give a structure already known: 1 - f1/n by
  Good (Biometrika 1953, 40, 237), in the form of Chao and Jost (Ecology 2012, 93, 2533, eq. 4a),
  which looks at f2 too;
* how many structures there are at least: Chao1 (Chao, Scand. J. Stat. 1984, 11, 265), with the
  log-normal interval of Chao (Biometrics 1987, 43, 783);
* how many more draws bring the coverage to a target: Chao and Jost (2012), eq. 12.

They assume independent draws. Chao1 is a lower bound: structures that the generator hardly ever
draws are not seen by any count. What no draw can give (another Z, another conformer than those
tried) is outside of all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from packflow_core.store.rows import Row

#: Energy above the minimum, kJ/mol, within which a structure may be a polymorph: 95 % of the pairs
#: of known polymorphs differ by less (Nyman and Day, CrystEngComm 2015, 17, 5154).
LOW_ENERGY_KJ_MOL = 7.2
#: Coverage that is called enough.
ENOUGH = 0.95
#: Times the present number of draws beyond which a forecast says no more than "many".
_FAR = 10.0
#: Draws below which no estimate says anything.
_FEW = 10
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Completeness:
    """What the counts of one set of structures say.

    Attributes:
        draws: candidates, n.
        structures: distinct structures among them.
        once, twice: structures found exactly once, f1, and twice, f2.
        more: structures found three times or more.
        coverage: share of further draws, of this kind, that would be known, 0 to 1; None without
            a draw.
        estimated: structures there are at least (Chao1); None without a draw.
        low, high: its 95 % interval; None without a draw.
        draws_wanted: further draws of this kind until the coverage is `ENOUGH`; 0 where it is,
            None where that cannot be told.
    """

    draws: int
    structures: int
    once: int
    twice: int
    more: int
    coverage: float | None = None
    estimated: float | None = None
    low: float | None = None
    high: float | None = None
    draws_wanted: int | None = None

    @property
    def missing(self) -> float | None:
        """Structures estimated to be missing."""
        return None if self.estimated is None else self.estimated - self.structures


@dataclass(frozen=True)
class SearchCompleteness:
    """Completeness of a run.

    Attributes:
        overall: of all ranked structures.
        low_energy: of those within `window_kJ_mol` of the minimum.
        window_kJ_mol: kJ/mol per molecule.
        advice: one sentence: enough, or sample more.
    """

    overall: Completeness
    low_energy: Completeness
    window_kJ_mol: float
    advice: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def search_completeness(
    rows: Iterable[Row], window_kJ_mol: float = LOW_ENERGY_KJ_MOL
) -> SearchCompleteness:
    """Completeness of a search from its ranked rows.

    Args:
        rows: of the ranked table; those that are not ranked are passed over.
        window_kJ_mol: the low-energy window.
    """
    ranked = [row for row in rows if row.get("rank") is not None]
    found: Counter[Any] = Counter(row.get("cluster") for row in ranked)
    lowest: dict[Any, float] = {}
    for row in ranked:
        energy, cluster = float(row["lattice_energy_rel_kJ_mol"]), row.get("cluster")
        lowest[cluster] = min(energy, lowest.get(cluster, math.inf))
    overall = completeness(list(found.values()))
    low = completeness([n for cluster, n in found.items() if lowest[cluster] <= window_kJ_mol])
    return SearchCompleteness(overall, low, window_kJ_mol, _advice(overall, low, window_kJ_mol))


def completeness(sizes: Sequence[int], target: float = ENOUGH) -> Completeness:
    """Coverage and Chao1 of structures that were found so often.

    Args:
        sizes: [S] candidates of each distinct structure, all above 0.
        target: coverage to be reached.

    Raises:
        ValueError: a size below 1.
    """
    if any(size < 1 for size in sizes):
        raise ValueError("every structure was found at least once")
    n, observed = sum(sizes), len(sizes)
    f1, f2 = sum(size == 1 for size in sizes), sum(size == 2 for size in sizes)
    counts = {"draws": n, "structures": observed, "once": f1, "twice": f2}
    counts["more"] = observed - f1 - f2
    if not n:
        return Completeness(**counts)
    estimated, variance = chao1(n, observed, f1, f2)
    low, high = chao_interval(sizes, estimated, variance)
    covered = coverage(n, f1, f2)
    return Completeness(
        **counts,
        coverage=covered,
        estimated=estimated,
        low=low,
        high=high,
        draws_wanted=draws_wanted(n, f1, f2, target),
    )


def coverage(n: int, f1: int, f2: int, more: int = 0) -> float:
    """Share of draws that are known after n draws and `more` further ones, 0 to 1.

    Chao and Jost 2012, eqs. 4a and 12: C(n + m) = 1 - f1/n q^(m + 1) with
    q = (n - 1) f1 / ((n - 1) f1 + 2 f2); where f2 = 0, its bias-corrected form, in which 2 f2 / f1
    becomes 2 / (f1 - 1).
    """
    if f1 == 0:
        return 1.0
    return 1.0 - f1 / n * _share_unseen(n, f1, f2) ** (more + 1)


def draws_wanted(n: int, f1: int, f2: int, target: float) -> int | None:
    """Further draws until the coverage is `target`; None where the counts cannot tell.

    They cannot where every draw gave another structure: then there may be any number.
    """
    now = coverage(n, f1, f2)
    if now >= target:
        return 0
    if f1 == n:
        return None
    more = math.log((1.0 - target) * n / f1) / math.log(_share_unseen(n, f1, f2)) - 1.0
    return max(1, math.ceil(more - 1e-9))


def chao1(n: int, observed: int, f1: int, f2: int) -> tuple[float, float]:
    """Chao1, the structures there are at least, and its variance.

    S = S_obs + (n - 1)/n f1^2 / (2 f2) (Chao 1984, 1987), and where f2 = 0 its bias-corrected form
    S_obs + (n - 1)/n f1 (f1 - 1) / 2, with the variances that EstimateS and SpadeR use.
    """
    a = (n - 1) / n
    if f2 > 0:
        r = f1 / f2
        estimated = observed + a * f1 * r / 2
        return estimated, f2 * (a / 2 * r**2 + a**2 * r**3 + a**2 / 4 * r**4)
    estimated = observed + a * f1 * (f1 - 1) / 2
    if f1 < 2:
        return estimated, 0.0
    variance = (
        a * f1 * (f1 - 1) / 2 + a**2 * f1 * (2 * f1 - 1) ** 2 / 4 - a**2 * f1**4 / (4 * estimated)
    )
    return estimated, variance


def chao_interval(sizes: Sequence[int], estimated: float, variance: float) -> tuple[float, float]:
    """The 95 % interval of Chao1 (Chao 1987): the missing number is taken as log-normal.

    S_obs + T / K to S_obs + T K with T = S - S_obs and K = exp(1.96 sqrt(ln(1 + var / T^2))).
    Where nothing is estimated to be missing, the interval of a Poisson count of each structure
    (Colwell, EstimateS, appendix B, eq. 14).
    """
    observed = len(sizes)
    missing = estimated - observed
    if missing > 0 and variance > 0:
        k = math.exp(_Z95 * math.sqrt(math.log(1.0 + variance / missing**2)))
        return observed + missing / k, observed + missing * k
    x = np.asarray(sizes, dtype=np.float64)
    unseen = float(np.exp(-x).sum() / observed)
    spread = float((np.exp(-x) - np.exp(-2 * x)).sum() - (x * np.exp(-x)).sum() ** 2 / x.sum())
    half = _Z95 * math.sqrt(max(spread, 0.0)) / (1.0 - unseen)
    middle = observed / (1.0 - unseen)
    return max(float(observed), middle - half), middle + half


def _share_unseen(n: int, f1: int, f2: int) -> float:
    """The q of `coverage`: what a draw leaves of the share that is unseen."""
    if f2 > 0:
        return (n - 1) * f1 / ((n - 1) * f1 + 2 * f2)
    return (n - 1) * (f1 - 1) / ((n - 1) * (f1 - 1) + 2) if f1 > 1 else 0.0


def _advice(overall: Completeness, low: Completeness, window: float) -> str:
    """One sentence: enough, or sample more."""
    if not overall.draws:
        return "Nothing was ranked, so nothing can be said about what is missing."
    where = f"within {window:g} kJ/mol of the minimum"
    if low.draws < _FEW:
        return (
            f"Sample more: only {low.draws} of {overall.draws} ranked candidates ended {where}, "
            "too few to tell what is missing there."
        )
    if low.once == low.draws:
        return (
            f"Sample more: every structure {where} ({low.structures}) was found once only, so "
            "the search is far from complete and the counts cannot tell how far."
        )
    assert low.coverage is not None
    assert low.missing is not None
    known = f"{low.coverage:.0%} of the draws {where} now give a known structure"
    if low.coverage >= ENOUGH:
        rest = (
            "nothing points to a missing one"
            if low.missing < 0.5
            else f"about {low.missing:.0f} of at least {low.estimated:.0f} may still be missing"
        )
        return f"Enough for this generator: {known}, and {rest}."
    assert low.draws_wanted is not None
    candidates = low.draws_wanted * overall.draws / low.draws
    if candidates > _FAR * overall.draws:
        price = f"more than {_FAR:g} times as many candidates"
    else:
        price = f"about {_round_up(candidates)} more ranked candidates"
    return f"Sample more: {known}; {price} would make it {ENOUGH:.0%}."


def _round_up(number: float) -> int:
    """A number rounded up to two digits: forecasts are no better."""
    digits = max(0, math.floor(math.log10(max(number, 1.0))) - 1)
    return int(math.ceil(number / 10**digits) * 10**digits)
