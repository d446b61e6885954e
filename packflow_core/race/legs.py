"""Legs of a race: what a run folder says about each of its candidates, as arrays.

A leg holds the longest run of candidates from number 0 on of which each has come to its end: it
was ranked, or some stage recorded why not. Candidates behind the first unfinished one are left
out, finished or not, because the quick ones among them are no fair sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core.errors import UserInputError
from packflow_core.stages.plan import RunPlan, accepted_by
from packflow_core.stages.run_store import RunStore
from packflow_core.store.ledger import Attempt
from packflow_core.store.schema import Status

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ObjectArray = NDArray[np.object_]


class Outcome(StrEnum):
    """How a candidate ended."""

    RANKED = "ranked"
    UNCONVERGED = "unconverged"
    REJECTED = "rejected"
    FAILED = "failed"


_PENDING = "pending"
_COMMON = ("index", "status", "reason", "attempt", "wall_s", "device", "host")
_STARTS = ("z", "energy_eV", "energy_start_eV", "density_start_g_cm3")
_ENDS = ("z", "energy_eV", "density_g_cm3", "matches_reference", "match_rmsd_A", "space_group")


@dataclass(frozen=True, eq=False)
class Leg:
    """Candidates 0 to n - 1 of one run; element i of every array is candidate i.

    Attributes:
        name: the method, made unique among the legs of a race.
        folder: the run folder.
        plan: spec, stage keys and identities.
        content: of run.json.
        n_run: candidates that the run was asked for.
        n_complete: candidates at the beginning of the sequence that have come to their end.
        hosts, devices: machines and devices that made the attempts.
        outcome: [n] `Outcome`.
        stage: [n] stage that a candidate ended in; `rank` for ranked ones.
        reason: [n] why it is not ranked; empty for ranked ones.
        cpu_s, gpu_s: [n] working seconds from the generation to the last relaxation, on CPUs and
            on GPUs.
        density_start: [n] g/cm3 at the start of `relax`; NaN for those that did not come there.
        energy_start: [n] eV per molecule at the start of `relax`; NaN likewise.
        energy_relax: [n] eV per molecule at the end of `relax`; NaN likewise.
        density: [n] g/cm3; NaN for those not ranked.
        energy: [n] eV per molecule by the engine of the last relaxation; NaN for those not ranked.
        match: [n] ranked, and the reference found again.
        match_rmsd: [n] Å; NaN where nothing was matched.
        space_group: [n] symbol; empty where unknown.
    """

    name: str
    folder: Path
    plan: RunPlan
    content: dict[str, Any]
    n_run: int
    n_complete: int
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    outcome: ObjectArray
    stage: ObjectArray
    reason: ObjectArray
    cpu_s: FloatArray
    gpu_s: FloatArray
    density_start: FloatArray
    energy_start: FloatArray
    energy_relax: FloatArray
    density: FloatArray
    energy: FloatArray
    match: BoolArray
    match_rmsd: FloatArray
    space_group: ObjectArray

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def ranked(self) -> BoolArray:
        """[n] whether a candidate was ranked."""
        return np.asarray(self.outcome == Outcome.RANKED, dtype=np.bool_)

    @property
    def cost_s(self) -> FloatArray:
        """[n] working seconds of each candidate on any device."""
        return self.cpu_s + self.gpu_s

    @property
    def has_reference(self) -> bool:
        """Whether the run looked for a known crystal."""
        return self.plan.reference_sha256 is not None

    def first(self, n: int) -> Leg:
        """The leg cut to its first `n` candidates."""
        arrays = {
            item.name: getattr(self, item.name)[:n]
            for item in fields(self)
            if isinstance(getattr(self, item.name), np.ndarray)
        }
        return replace(self, **arrays)

    def counts(self) -> dict[Outcome, int]:
        """Candidates by how they ended."""
        found = Counter(self.outcome.tolist())
        return {outcome: found[outcome] for outcome in Outcome}

    def losses(self) -> list[tuple[str, str, str, int]]:
        """(stage, outcome, reason, candidates) of those not ranked, most frequent first."""
        lost = ~self.ranked
        found = Counter(
            zip(
                self.stage[lost].tolist(), map(str, self.outcome[lost]), self.reason[lost].tolist(),
                strict=True,
            )
        )  # fmt: skip
        return [(*key, count) for key, count in sorted(found.items(), key=lambda x: (-x[1], x[0]))]


def read_legs(folders: Sequence[Path]) -> list[Leg]:
    """Legs of run folders, with names that differ.

    Raises:
        UserInputError: fewer than two folders, one given twice, one that is no run folder, or one
            without a finished candidate.
        RunFailedError: a folder is damaged.
    """
    if len(folders) < 2:
        raise UserInputError("A race takes two or more run folders; give another one.")
    resolved = [folder.resolve() for folder in folders]
    for folder, count in Counter(resolved).items():
        if count > 1:
            raise UserInputError(f"The folder {folder} was given twice; give each run once.")
    runs = [RunStore(folder) for folder in folders]
    return [read_leg(run, name) for run, name in zip(runs, _names(runs), strict=True)]


def read_leg(run: RunStore, name: str) -> Leg:
    """The leg of one run folder.

    Raises:
        UserInputError: not one candidate has come to its end.
        RunFailedError: the folder is damaged.
    """
    reader = _Reader(run)
    for stage in run.plan.stage_names:
        reader.read(stage)
    unfinished = np.flatnonzero(reader.outcome == _PENDING)
    complete = int(unfinished[0]) if len(unfinished) else len(reader.outcome)
    if complete == 0:
        raise UserInputError(
            f"The first candidate of {run.folder} is not finished, so there is nothing to compare "
            f"(the run is {run.status}); continue it with 'csp resume {run.folder}'."
        )
    leg = Leg(
        name=name,
        folder=run.folder,
        plan=run.plan,
        content=run.content,
        n_run=run.plan.spec.n,
        n_complete=complete,
        hosts=tuple(sorted(reader.hosts)),
        devices=tuple(sorted(reader.devices)),
        outcome=reader.outcome,
        stage=reader.stage,
        reason=reader.reason,
        cpu_s=reader.cpu_s,
        gpu_s=reader.gpu_s,
        **reader.values,
    )
    return leg.first(complete)


class _Reader:
    """Follows the candidates of a run from stage to stage."""

    def __init__(self, run: RunStore) -> None:
        n = run.plan.spec.n
        self._run = run
        self._names = run.plan.stage_names
        self._alive = np.ones(n, dtype=np.bool_)
        self.outcome = np.full(n, _PENDING, dtype=object)
        self.stage = np.full(n, "", dtype=object)
        self.reason = np.full(n, "", dtype=object)
        self.cpu_s, self.gpu_s = np.zeros(n), np.zeros(n)
        self.hosts: set[str] = set()
        self.devices: set[str] = set()
        self.values: dict[str, Any] = {
            "match": np.zeros(n, dtype=np.bool_),
            "space_group": np.full(n, "", dtype=object),
            **{
                name: np.full(n, np.nan)
                for name in (
                    "density_start", "energy_start", "energy_relax", "density", "energy",
                    "match_rmsd",
                )
            },
        }  # fmt: skip

    def read(self, stage: str) -> None:
        """Take in the rows of the next stage."""
        last = stage == self._names[-1]
        more = _ENDS if last else _STARTS if stage == "relax" else ()
        table = self._run.stage(stage).table((*_COMMON, *more)).to_pandas()
        # A row whose candidate was lost before belongs to an attempt that was made again.
        table = table[(table["index"] < len(self._alive)).to_numpy()]
        table = table[self._alive[table["index"].to_numpy()]]
        index = table["index"].to_numpy()
        status = table["status"].to_numpy(dtype=object)
        reason = table["reason"].fillna("").to_numpy(dtype=object)
        if not last:
            self._cost(index, table)
            if stage == "relax":
                self._starts(index, table)
        again = np.zeros(len(index), dtype=np.bool_)
        for k in np.flatnonzero(status == Status.FAILED):
            attempt = Attempt(status[k], reason[k], int(table["attempt"].iloc[k] or 0))
            again[k] = not attempt.final
        goes_on = self._accepted(stage, status)
        ended = index[~goes_on & ~again]
        self.outcome[ended] = [Outcome(text) for text in status[~goes_on & ~again]]
        self.stage[ended] = stage
        self.reason[ended] = reason[~goes_on & ~again]
        if last:
            self._ends(index[goes_on], table[goes_on])
        alive = np.zeros_like(self._alive)
        alive[index[goes_on]] = True
        self._alive = alive

    def _accepted(self, stage: str, status: ObjectArray) -> BoolArray:
        """Rows that the next stage takes; of the last stage those that are ranked."""
        spec = self._run.plan.spec
        if stage == self._names[-1]:
            accepted = accepted_by(spec, "rank")
        else:
            accepted = accepted_by(spec, self._names[self._names.index(stage) + 1])
        return np.isin(status, [str(wanted) for wanted in accepted])

    def _cost(self, index: NDArray[np.int64], table: Any) -> None:
        seconds = table["wall_s"].fillna(0.0).to_numpy(dtype=np.float64)
        device = table["device"].fillna("").to_numpy(dtype=object)
        on_cpu = np.array([text == "" or text.startswith("cpu") for text in device], dtype=np.bool_)
        self.cpu_s[index] += np.where(on_cpu, seconds, 0.0)
        self.gpu_s[index] += np.where(on_cpu, 0.0, seconds)
        self.devices.update(text for text in device if text)
        self.hosts.update(text for text in table["host"].dropna())

    def _starts(self, index: NDArray[np.int64], table: Any) -> None:
        z = table["z"].to_numpy(dtype=np.float64)
        self.values["density_start"][index] = _floats(table["density_start_g_cm3"])
        self.values["energy_start"][index] = _floats(table["energy_start_eV"]) / z
        self.values["energy_relax"][index] = _floats(table["energy_eV"]) / z

    def _ends(self, index: NDArray[np.int64], table: Any) -> None:
        self.outcome[index] = Outcome.RANKED
        self.stage[index] = self._names[-1]
        z = table["z"].to_numpy(dtype=np.float64)
        self.values["energy"][index] = _floats(table["energy_eV"]) / z
        self.values["density"][index] = _floats(table["density_g_cm3"])
        self.values["match"][index] = table["matches_reference"].eq(True).to_numpy()
        self.values["match_rmsd"][index] = _floats(table["match_rmsd_A"])
        self.values["space_group"][index] = table["space_group"].fillna("").to_numpy(dtype=object)


def _floats(column: Any) -> FloatArray:
    """A column as floats; what is missing or not finite is NaN."""
    values = np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.where(np.isfinite(values), values, np.nan)


def _names(runs: Sequence[RunStore]) -> list[str]:
    """Methods of the runs; where two are the same, with the seed, else with the folder."""
    names = [run.plan.spec.method for run in runs]
    for more in (
        [f" seed {run.plan.spec.seed}" for run in runs],
        [f" ({run.folder.name})" for run in runs],
        [f" ({run.folder.resolve()})" for run in runs],
    ):
        counts = Counter(names)
        if max(counts.values()) == 1:
            break
        # Of a name that all share, only what makes them differ helps.
        longer = [
            run.plan.spec.method + extra if counts[name] > 1 else name
            for run, name, extra in zip(runs, names, more, strict=True)
        ]
        if len(set(longer)) > len(set(names)):
            names = longer
    return names
