"""What a run will cost, forecast from a pilot: time, memory and disk per stage and in all.

Every figure is a range: the 5 %, 50 % and 95 % quantiles of what the pilot allows, see
`packflow_core.estimate_spread`. What a pilot cannot know is said in the notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from packflow_core.baselines.names import family_of
from packflow_core.estimate_pilot import Pilot, StagePilot
from packflow_core.estimate_spread import Draws, cost_draws, interval, yield_draws
from packflow_core.stages.registry import MAX_TASKS, chunks

Range = tuple[float, float, float]

_DRAWS = 4000
_SEED = 0
#: Structures that a run writes as CIF files at most.
_CIFS = 100
#: Chunks of a stage under way at once; the rows of each are in memory.
_CHUNKS_AT_ONCE = 2
#: Memory of a candidate while a stage is cut into chunks: its ledger entries and its work, bytes
#: (Python objects of 100,000 candidates peak at 600 each; the rest is for Arrow).
_LEDGER_BYTES = 900.0
#: Copies of a ranked row while the results are made: parent, worker, and the message between them.
_RANKED_COPIES = 2.5
#: Chunks whose size only a run with that many candidates needs are not cut to be counted.
_COUNTED = 100_000


@dataclass(frozen=True)
class StageForecast:
    """One stage of the whole run; ranges are (5 %, 50 %, 95 %).

    Attributes:
        stage: its name.
        candidates: that it attempts.
        seconds_each: working time of a candidate, s.
        core_hours: working time of all, h; hours of the GPU where it works on one.
        elapsed_hours: the same, shared by `seats` processes, h.
        disk_mb: of its table, MB.
        memory_mb: largest resident memory of all processes, MB.
        seats: processes that share the work.
        measured: candidates of the pilot whose times it was forecast from.
    """

    stage: str
    candidates: Range
    seconds_each: Range
    core_hours: Range
    elapsed_hours: Range
    disk_mb: Range
    memory_mb: float
    seats: int
    measured: int


@dataclass(frozen=True)
class Forecast:
    """A run; ranges are (5 %, 50 %, 95 %).

    Attributes:
        target: its name.
        n: candidates of the run.
        pilot_candidates: candidates that the pilot made.
        pilot_s: what the pilot took, s.
        stages: in their order; a stage that no candidate of the pilot reached is missing.
        core_hours, elapsed_hours, disk_mb: of all stages and the result files.
        memory_mb: of the stage, or the writing of the results, that takes most, MB.
        notes: what the figures leave out, one sentence each.
    """

    target: str
    n: int
    pilot_candidates: int
    pilot_s: float
    stages: tuple[StageForecast, ...]
    core_hours: Range
    elapsed_hours: Range
    disk_mb: Range
    memory_mb: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def forecast(pilot: Pilot, n: int | None = None) -> Forecast:
    """Forecast a run from its pilot.

    Args:
        pilot: see `packflow_core.estimate_pilot.run_pilot`.
        n: candidates of the run; the spec's when None.
    """
    n = pilot.spec.n if n is None else n
    rng = np.random.default_rng(_SEED)
    shares = {
        z: count / len(pilot.spec.z_cycle) for z, count in Counter(pilot.spec.z_cycle).items()
    }
    reaching: Draws = np.full(_DRAWS, float(n))
    stages: list[StageForecast] = []
    core, elapsed, disk = np.zeros(_DRAWS), np.zeros(_DRAWS), np.zeros(_DRAWS)
    notes = _notes(pilot)
    for measured in pilot.stages:
        if not measured.measured:
            notes.append(
                f"No candidate of the pilot reached the stage {measured.stage}, so it and what "
                "comes after are not in these figures; make the pilot larger."
            )
            reaching = np.zeros(_DRAWS)
            break
        each = cost_draws(measured.seconds, shares, measured.limit_s, rng, _DRAWS)
        hours = reaching * each / 3600.0
        tables = _disk_mb(measured, reaching, n, len(pilot.stages))
        stages.append(
            StageForecast(
                stage=measured.stage,
                candidates=interval(reaching),
                seconds_each=interval(each),
                core_hours=interval(hours),
                elapsed_hours=interval(hours / measured.seats),
                disk_mb=interval(tables),
                memory_mb=_memory_mb(pilot, measured, reaching, n),
                seats=measured.seats,
                measured=measured.measured,
            )
        )
        core, elapsed, disk = core + hours, elapsed + hours / measured.seats, disk + tables
        reaching = reaching * yield_draws(measured.passed, measured.tried, rng, _DRAWS)
    ranked = reaching
    last = pilot.stages[-1]
    disk = (
        disk
        + (
            pilot.fixed_bytes
            + np.minimum(ranked, _CIFS) * pilot.cif_bytes
            + ranked * (pilot.csv_bytes + last.row_bytes)
        )
        / 1e6
    )
    results_mb = (
        pilot.results_memory_mb
        + _RANKED_COPIES * float(np.median(ranked)) * pilot.ranked_row_bytes / 1e6
    )
    return Forecast(
        target=pilot.spec.name,
        n=n,
        pilot_candidates=pilot.candidates,
        pilot_s=pilot.elapsed_s,
        stages=tuple(stages),
        core_hours=interval(core),
        elapsed_hours=interval(elapsed + pilot.results_s / 3600.0),
        disk_mb=interval(disk),
        memory_mb=max([results_mb, *(stage.memory_mb for stage in stages)]),
        notes=tuple(notes),
    )


def total(forecasts: Iterable[Forecast]) -> dict[str, Any]:
    """Several runs, one after the other; the ranges add up in their squares, not in their ends.

    Returns:
        `core_hours`, `elapsed_hours` and `disk_mb` as ranges, and the largest `memory_mb`.
    """
    runs = list(forecasts)

    def add(name: str) -> Range:
        ranges = np.array([getattr(run, name) for run in runs], dtype=np.float64)
        low, middle, high = ranges.T
        return (
            float(middle.sum() - np.sqrt(((middle - low) ** 2).sum())),
            float(middle.sum()),
            float(middle.sum() + np.sqrt(((high - middle) ** 2).sum())),
        )

    return {
        "runs": len(runs),
        "n": sum(run.n for run in runs),
        "core_hours": add("core_hours"),
        "elapsed_hours": add("elapsed_hours"),
        "disk_mb": add("disk_mb"),
        "memory_mb": max((run.memory_mb for run in runs), default=0.0),
    }


def _chunk_size(stage: StagePilot, n: int, stages: int) -> tuple[int, int]:
    """Candidates of a chunk, and chunks, of a stage that attempts so many."""
    at_most = MAX_TASKS // stages
    counted = min(n, _COUNTED)
    cut = chunks(
        stage.stage, [(i, 1) for i in range(counted)], at_most=at_most, batched=stage.batched
    )
    size = max(len(cut[0]), -(-n // at_most))
    return size, -(-n // size)


def _disk_mb(stage: StagePilot, reaching: Draws, n: int, stages: int) -> Draws:
    _, parts = _chunk_size(stage, max(1, n), stages)
    return np.asarray((reaching * stage.row_bytes + parts * stage.part_bytes) / 1e6)


def _memory_mb(pilot: Pilot, stage: StagePilot, reaching: Draws, n: int) -> float:
    size, _ = _chunk_size(stage, max(1, n), len(pilot.stages))
    rows = min(_CHUNKS_AT_ONCE * size, float(np.median(reaching)))
    processes_mb = stage.parent_mb + stage.seats * stage.worker_mb
    return processes_mb + (rows * pilot.ranked_row_bytes + n * _LEDGER_BYTES) / 1e6


def _notes(pilot: Pilot) -> list[str]:
    """What a pilot cannot know."""
    notes = [
        "Hours count this machine as it was during the pilot, and workers that do not slow each "
        "other down.",
        "The search for duplicates among all ranked candidates, the start of workers, Prefect, and "
        "second attempts are not in the figures.",
    ]
    if any(stage.batched for stage in pilot.stages):
        notes.append(
            "The engine works in batches, and those of a pilot are small: the true time is less."
        )
    if pilot.spec.refine:
        notes.append(
            "The share of candidates within the window of a refinement shrinks as the minimum of "
            "more candidates sinks: its true cost is less."
        )
    if family_of(pilot.spec.generator) == "genarris":
        notes.append("Genarris was started for a few structures; many cost less each.")
    return notes
