"""Harmonic free energies of crystals: relaxed tighter, displaced, and summed over their modes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.rows import Row, crystal_of
from packflow_core.store.schema import Status
from packflow_core.trust.displaced_forces import (
    Task,
    compute_forces,
    force_keys,
    time_force_call,
)
from packflow_core.trust.free_energy_table import FreeEnergies, free_energy_findings
from packflow_core.trust.harmonic import THZ_TO_CM1, Modes, modes_of
from packflow_core.trust.phonons import (
    Repeats,
    equal_repeats,
    plan_displacements,
    supercell_frequencies,
    symmetrised,
)
from packflow_core.trust.records import Records, key_of
from packflow_core.trust.verify import RECORDS_FOLDER, Means, relaxed_tightly

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

#: Temperatures of the curve of every structure, K.
CURVE_K = tuple(float(t) for t in range(0, 501, 25))
#: How a force call grows with the number of atoms, a power; and what a tighter relaxation takes,
#: as a share of the first one. Both for the price alone.
_SCALING, _TIGHTER_SHARE = 1.3, 1.0


@dataclass(frozen=True)
class Price:
    """What is still to be computed.

    Attributes:
        structures: crystals.
        relaxations: those that have to be relaxed tighter first.
        relaxation_s: working seconds that these will take, estimated from the run's own.
        force_calls: displaced supercells without forces, after symmetry.
        call_s: seconds of one call of the largest supercell, measured; 0 where none is left.
        forces_s: working seconds of all calls.
        workers: processes that share the work.
    """

    structures: int
    relaxations: int
    relaxation_s: float
    force_calls: int
    call_s: float
    forces_s: float
    workers: int

    @property
    def seconds(self) -> float:
        """Elapsed seconds until the end, about."""
        return (self.relaxation_s + self.forces_s) / self.workers

    def __str__(self) -> str:
        from packflow_core.progress import duration

        parts = []
        if self.relaxations:
            many = f"{self.relaxations} tighter relaxation{'s' if self.relaxations > 1 else ''}"
            parts.append(f"{many} ({duration(self.relaxation_s)})")
        parts.append(
            f"{self.force_calls} force calls ({self.call_s:.2g} s each for the largest supercell, "
            f"{duration(self.forces_s)})"
        )
        shared = f" on {self.workers} workers" if self.workers > 1 else ""
        return (
            f"Free energies of {self.structures} structures: {' and '.join(parts)}, about "
            f"{duration(self.seconds)}{shared}."
        )


def free_energies(
    rows: Sequence[Row],
    folder: Path,
    means: Means,
    smiles: str,
    params: RelaxParams,
    temperature_K: float,
    supercell: Repeats | None,
    approve: Callable[[Price], None],
    relax_s: Sequence[float],
) -> FreeEnergies:
    """Harmonic free energies of structures.

    Args:
        rows: ranked rows, best first.
        folder: of the run, where results are kept.
        means: engine, workers and limits.
        smiles: the molecule.
        params: of the tighter relaxation.
        temperature_K: K.
        supercell: repeats along a, b, c; as many as give all about as many molecules when None.
        approve: called with the price before anything dear; what it raises ends the work.
        relax_s: [n] seconds that the relaxations of the run took.

    Returns:
        One row per structure; where one has no free energy, the reason is beside it.
    """
    crystals = [crystal_of(row) for row in rows]
    repeats = equal_repeats(crystals) if supercell is None else [supercell] * len(crystals)
    with Records(folder / RECORDS_FOLDER) as records:
        approve(_price(crystals, repeats, means, records, params, relax_s))
        relaxed = relaxed_tightly(rows, means, records, params, smiles)
        found = [
            _identity(row, means, temperature_K, reps, tight)
            for row, reps, tight in zip(rows, repeats, relaxed, strict=True)
        ]
        sound = [i for i, row in enumerate(found) if not row["problem"]]
        exact = {i: symmetrised(_tight_crystal(crystals[i], relaxed[i])) for i in sound}
        plans = _plans({i: (exact[i], repeats[i]) for i in sound}, means, found)
        planned = [i for i in sound if i in plans]
        tasks = [plans[i] for i in planned]
        keys, problems = compute_forces(tasks, means, records)
        work = {}
        for i, task, own_keys, problem in zip(planned, tasks, keys, problems, strict=True):
            found[i]["problem"] = problem
            found[i]["symmetry"] = task[2].space_group
            found[i]["n_displacements"] = len(task[2])
            if not problem:
                shape = (len(own_keys), -1, 3)
                forces = [records_array(records, key) for key in own_keys]
                work[i] = (exact[i], repeats[i], np.array(forces).reshape(shape))
        for i, modes in _modes(work, means, found).items():
            found[i].update(_columns(modes, found[i]["n_molecules"], temperature_K))
    _order(found, relaxed)
    return FreeEnergies(means.identity, temperature_K, found, tuple(free_energy_findings(found)))


def records_array(records: Records, key: str) -> FloatArray:
    """Numbers of a record that is there.

    Raises:
        KeyError: it is not.
    """
    record = records.get(key)
    if record is None:
        raise KeyError(key)
    return record.array


def _price(
    crystals: Sequence[Crystal],
    repeats: Sequence[Repeats],
    means: Means,
    records: Records,
    params: RelaxParams,
    relax_s: Sequence[float],
) -> Price:
    """Count what is missing, and time one force call of the largest supercell."""
    settings = params.model_dump(mode="json")
    kept = [records.get(key_of(c, "tight", settings, means.identity)) for c in crystals]
    now = [
        crystal
        if record is None
        else crystal.with_positions(
            record.array[:-9].reshape(-1, 3), record.array[-9:].reshape(3, 3)
        )
        for crystal, record in zip(crystals, kept, strict=True)
    ]
    exact = {
        i: (symmetrised(c), reps)
        for i, (c, reps, record) in enumerate(zip(now, repeats, kept, strict=True))
        # One that did not end ok is not displaced.
        if record is None
        or (record.facts["status"] == Status.OK and record.facts["energy_eV"] is not None)
    }
    plans = _plans(exact, means, None)
    left = {
        i: sum(key not in records for key in force_keys(task, means.identity))
        for i, task in plans.items()
    }
    sizes = {i: len(task[0]) * int(np.prod(task[1])) for i, task in plans.items()}
    waiting = [i for i in left if left[i]]
    call_s = forces_s = 0.0
    if waiting:
        largest = max(waiting, key=lambda i: sizes[i])
        crystal, reps, _ = plans[largest]
        items = [(0, (means.engine, crystal.repeated(reps)))]
        for outcome in means.pool.map(time_force_call, items, means.limit_s):
            means.go_on()
            # One that fails here fails there too, and is told there.
            if outcome.error is not None:
                call_s = means.limit_s
            else:
                call_s = outcome.value if isinstance(outcome.value, float) else 0.0
        forces_s = sum(left[i] * call_s * (sizes[i] / sizes[largest]) ** _SCALING for i in waiting)
    again = [i for i, record in enumerate(kept) if record is None]
    return Price(
        structures=len(crystals),
        relaxations=len(again),
        relaxation_s=_TIGHTER_SHARE * sum(relax_s[i] for i in again),
        force_calls=sum(left.values()),
        call_s=call_s,
        forces_s=forces_s,
        workers=means.pool.workers,
    )


def _plans(
    crystals: dict[int, tuple[Crystal, Repeats]], means: Means, found: list[Row] | None
) -> dict[int, Task]:
    """Displacements of crystals, planned in workers; a problem goes to the rows of `found`."""
    plans: dict[int, Task] = {}
    for outcome in means.pool.map(plan_displacements, crystals.items(), means.limit_s):
        means.go_on()
        i = int(str(outcome.key))
        if outcome.error is None:
            plans[i] = (*crystals[i], outcome.value)
        elif found is not None:
            found[i]["problem"] = f"no displacements ({outcome.error}: {outcome.detail})"
    return plans


def _modes(
    work: dict[int, tuple[Crystal, Repeats, FloatArray]], means: Means, found: list[Row]
) -> dict[int, Modes]:
    """Modes of supercells, from their forces; a problem goes to the rows of `found`."""
    modes: dict[int, Modes] = {}
    for outcome in means.pool.map(supercell_frequencies, work.items(), means.limit_s):
        means.go_on()
        i = int(str(outcome.key))
        if outcome.error is None:
            try:
                modes[i] = modes_of(outcome.value)
                continue
            except ValueError as error:
                why = str(error)
        else:
            why = f"{outcome.error}: {outcome.detail}"
        found[i]["problem"] = f"no frequencies ({why})"
    return modes


def _identity(row: Row, means: Means, temperature_K: float, repeats: Repeats, tight: Row) -> Row:
    names = ("candidate_id", "index", "rank", "cluster", "z", "energy_eV")
    why = ""
    if tight.get("tight_energy_per_molecule_eV") is None:
        why = f"the tighter relaxation did not end ok ({tight['tight_problem']})"
    return {
        **{name: row.get(name) for name in names},
        "engine": means.identity,
        "temperature_K": temperature_K,
        "supercell": list(repeats),
        "n_molecules": int(row["z"]) * int(np.prod(repeats)),
        "problem": why,
    }


def _tight_crystal(crystal: Crystal, tight: Row) -> Crystal:
    positions = np.array(tight["tight_positions"]).reshape(-1, 3)
    return crystal.with_positions(positions, np.array(tight["tight_cell"]).reshape(3, 3))


def _columns(modes: Modes, n_molecules: int, temperature_K: float) -> Row:
    per = EV_TO_KJ_MOL / n_molecules
    return {
        "zero_point_kJ_mol": per * modes.free_energy(0.0),
        "vibrational_kJ_mol": per * modes.free_energy(temperature_K),
        "n_imaginary": modes.n_imaginary,
        "n_soft": modes.n_soft,
        "lowest_cm1": modes.lowest_cm1,
        "frequencies_cm1": (modes.frequencies_THz * THZ_TO_CM1).tolist(),
        "temperatures_K": list(CURVE_K),
        "vibrational_curve_kJ_mol": [per * modes.free_energy(t) for t in CURVE_K],
    }


def _order(found: list[Row], relaxed: Sequence[Row]) -> None:
    """Fill what needs all structures: energies above the lowest, and the order."""
    known = [i for i, row in enumerate(found) if row.get("vibrational_kJ_mol") is not None]
    if not known:
        return
    static = {i: EV_TO_KJ_MOL * relaxed[i]["tight_energy_per_molecule_eV"] for i in known}
    free = {i: static[i] + found[i]["vibrational_kJ_mol"] for i in known}
    lowest_static, lowest_free = min(static.values()), min(free.values())
    order = sorted(known, key=lambda i: (round(free[i], 6), found[i]["candidate_id"]))
    for place, i in enumerate(order, start=1):
        found[i]["static_rel_kJ_mol"] = static[i] - lowest_static
        found[i]["free_energy_rel_kJ_mol"] = free[i] - lowest_free
        found[i]["free_energy_rank"] = place
