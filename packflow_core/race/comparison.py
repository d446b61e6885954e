"""A race from its run folders: legs, equal budget, common zero, basins, numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from packflow_core.race.basins import Basins
from packflow_core.race.budget import Budget, cut
from packflow_core.race.fairness import check_comparable, remarks
from packflow_core.race.known_form import KnownForm, known_form
from packflow_core.race.legs import Leg, read_legs
from packflow_core.race.metrics import (
    LegStatistics,
    Metric,
    basin_metrics,
    difference_metrics,
    leg_metrics,
    leg_statistics,
)
from packflow_core.race.scale import Scale, common_scale
from packflow_core.race.settings import CompareSettings
from packflow_core.race.union import find_basins
from packflow_core.stages.present import reference_density
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import make_folder

logger = logging.getLogger(__name__)

LOG = "compare.log"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a race came to.

    Attributes:
        settings: how it was compared.
        legs: cut to the budget.
        budget: what each got.
        scale: common zero, known form.
        known: the relaxed known form; None without a reference, or where it was not wanted.
        basins: distinct structures of all legs inside the window.
        statistics: of each leg.
        metrics: all numbers.
        remarks: what a reader should know, one sentence each.
    """

    settings: CompareSettings
    legs: tuple[Leg, ...]
    budget: Budget
    scale: Scale
    known: KnownForm | None
    basins: Basins
    statistics: tuple[LegStatistics, ...]
    metrics: tuple[Metric, ...]
    remarks: tuple[str, ...]

    @property
    def target(self) -> str:
        """Name of the target, as the first leg calls it."""
        return self.legs[0].plan.spec.name

    @property
    def engine(self) -> str:
        """Identity of the engine whose energies are compared."""
        return self.legs[0].plan.engine

    @property
    def uses_gpu(self) -> bool:
        """Whether any work was done on a GPU."""
        return any(float(leg.gpu_s.sum()) > 0 for leg in self.legs)

    def metric(self, leg: str, name: str, other: str = "") -> Metric | None:
        """A value of a leg, or the overlap of two; None where there is none."""
        kind = "overlap" if other else "value"
        for found in self.metrics:
            if (found.leg, found.other, found.kind, found.metric) == (leg, other, kind, name):
                return found
        return None


def compare_runs(
    folders: Sequence[Path],
    settings: CompareSettings,
    out: Path,
    tell: Callable[[str], None] = logger.info,
) -> Comparison:
    """Compare run folders; reads them only.

    Args:
        folders: two or more run folders, finished or not.
        settings: see there.
        out: folder of the comparison, made where missing; the relaxed known form is kept there.
        tell: told in words what takes time now.

    Raises:
        UserInputError: folders that cannot be compared, or a budget that they do not fill.
        RunFailedError: a folder is damaged, or the clustering broke.
    """
    whole = read_legs(folders)
    check_comparable(whole)
    legs, budget = cut(whole, settings)
    make_folder(out)
    scale, known, notes = _scale(legs, settings, out, tell)
    notes = [*remarks(whole), *_nothing(legs), *notes]
    inside = sum(
        int((scale.above_zero(leg.energy) <= settings.window_kJ_mol).sum()) for leg in legs
    )
    tell(f"clustering {inside} structures within {settings.window_kJ_mol:g} kJ/mol")
    basins = find_basins(legs, scale, settings.window_kJ_mol, out / LOG)
    shared_s = min((float(leg.cost_s.sum()) for leg in legs), default=0.0)
    tell(f"{settings.resamples} resamples of each leg")
    statistics = [
        leg_statistics(leg, scale, basins.labels[k], len(basins), shared_s, settings, position=k)
        for k, leg in enumerate(legs)
    ]
    metrics = [
        metric
        for leg, found in zip(legs, statistics, strict=True)
        for metric in leg_metrics(leg, scale, found, settings)
    ]
    metrics += basin_metrics(legs, basins, statistics, settings.confidence)
    metrics += difference_metrics(legs, statistics, settings.confidence)
    return Comparison(
        settings, tuple(legs), budget, scale, known, basins, tuple(statistics), tuple(metrics),
        tuple(notes),
    )  # fmt: skip


def _scale(
    legs: Sequence[Leg], settings: CompareSettings, out: Path, tell: Callable[[str], None]
) -> tuple[Scale, KnownForm | None, list[str]]:
    """The common zero with the known form, and what is to be said about that."""
    scale = common_scale(legs)
    run = RunStore(legs[0].folder)
    if run.reference is None:
        return scale, None, []
    density = reference_density(run)
    if not settings.known_form:
        return scale.with_known_form(density, None, None), None, []
    tell("relaxing the known form")
    known = known_form(legs[0].plan, run.reference, out)
    scale = scale.with_known_form(density, known.density, known.energy_eV)
    if known.problem:
        return scale, known, [f"The known form has no energy: {known.problem.rstrip('.')}."]
    if not known.matches:
        return scale, known, [
            "Relaxed with this engine, the known form no longer matches the reference, so hits "
            "cannot be expected."
        ]  # fmt: skip
    return scale, known, []


def _nothing(legs: Sequence[Leg]) -> list[str]:
    """Legs from which nothing came."""
    out = []
    for leg in legs:
        if len(leg) == 0:
            out.append(f"{leg.name}: the budget is spent before its first candidate is done.")
        elif not leg.ranked.any():
            stage, outcome, reason, count = leg.losses()[0]
            out.append(
                f"{leg.name}: none of its {len(leg)} candidates was ranked; {count} ended "
                f"{outcome} ({reason or 'no reason'}) in stage {stage}."
            )
    hits = [int(np.sum(leg.match)) for leg in legs]
    if legs[0].has_reference and not sum(hits):
        out.append("No leg found the reference; rates of hits have an upper bound alone.")
    return out
