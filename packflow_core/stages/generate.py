"""Stage `generate`: heavy-atom proposals of one molecule from a PackFlow model."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence

import numpy as np
import torch

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import bond_errors, bond_statistics
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights, is_valid_parameters, parameters_to_cell
from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import LoadedModel, load_model
from packflow_core.model.sampler import SAMPLER_VERSION, Sample, Sampler, Schedule
from packflow_core.model.solvers import Solver
from packflow_core.stages.generate_params import GenerateParams, z_of_index
from packflow_core.store.rows import Row, crystal_columns
from packflow_core.store.schema import Reason, Status

__all__ = [
    "GenerateParams",
    "generate",
    "generator_identity",
    "resolve_device",
    "sample_row",
    "schedule_of",
    "z_of_index",
]

log = logging.getLogger(__name__)


#: Steps and solver by preset where the settings name none. Open models: measured, see
#: docs/sampling.md. The published ones were trained and judged with 100 Euler steps (paper, 4.3).
_DEFAULT_STEPS: dict[str, tuple[int, Solver]] = {"open": (10, "ab2"), "official": (100, "euler")}


def schedule_of(params: GenerateParams, preset: str) -> Schedule:
    """The part of the settings that the sampler needs, with the defaults of a model's preset."""
    steps, solver = _DEFAULT_STEPS[preset]
    return Schedule(
        params.steps or steps,
        params.solver or solver,
        params.power,
        params.restarts,
        params.restart_steps,
        params.symmetry,
    )


def resolve_device(wanted: str) -> str:
    """Device name for torch.

    Raises:
        UserInputError: cuda was asked for and there is none.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserInputError(
            "The generator was asked to run on CUDA, but PyTorch sees no GPU; "
            "use device auto or cpu, or install a CUDA build of PyTorch."
        )
    return wanted


@functools.lru_cache(maxsize=2)
def _load(name: str) -> LoadedModel:
    return load_model(name)


def generator_identity(name: str) -> dict[str, str]:
    """What identifies a generator: name, preset, hash of its weights, version of the sampler.

    Raises:
        UserInputError: unknown generator or unreadable checkpoint.
    """
    loaded = _load(name)
    identity = {"name": loaded.name, "preset": loaded.preset, "sha256": loaded.sha256}
    return {**identity, "sampler": SAMPLER_VERSION}


def generate(
    indices: Sequence[int],
    *,
    smiles: str,
    z_values: Sequence[int],
    seed: int,
    target: str,
    generator: str,
    params: GenerateParams,
) -> list[Row]:
    """Rows of the candidates with the given indices, in their order.

    Args:
        indices: numbers in the sampling sequence of (seed, molecule, z_values).
        smiles: molecule.
        z_values: molecules per cell, taken in turns; a Z may be in it several times.
        seed: campaign seed.
        target: first part of the candidate ids.
        generator: shipped model or path of a checkpoint.
        params: sampler.

    Raises:
        UserInputError: bad SMILES, checkpoint or device.
    """
    molecule = Molecule.from_smiles(smiles)
    loaded = _load(generator)
    sampler = Sampler(
        loaded.model,
        molecule,
        resolve_device(params.device),
        volume_scale=params.volume_scale or 1.0,
    )
    schedule = schedule_of(params, loaded.preset)
    by_z: dict[int, list[tuple[int, int]]] = {}
    for index in indices:
        z, number = z_of_index(index, z_values)
        by_z.setdefault(z, []).append((index, number))
    rows: dict[int, Row] = {}
    for z, members in by_z.items():
        started = time.monotonic()
        samples = sampler.sample(z, [number for _, number in members], seed, schedule)
        seconds = (time.monotonic() - started) / len(members)
        for (index, _), sample in zip(members, samples, strict=True):
            row = sample_row(sample, molecule, z, params)
            row.update(
                candidate_id=f"{target}-z{z}-{index:06d}",
                index=index,
                target=target,
                seed=seed,
                wall_s=seconds,
                device=str(sampler.device),
                engine=f"{loaded.preset}:{loaded.name}@{loaded.sha256[:12]}",
            )
            rows[index] = row
    return [rows[i] for i in indices]


def sample_row(sample: Sample, molecule: Molecule, z: int, params: GenerateParams) -> Row:
    """Status and crystal of one sample."""
    numbers = np.tile(molecule.numbers, z)
    row: Row = {"status": str(Status.OK), "reason": str(Reason.NONE), "detail": "", "z": z}
    row.update(space_group_drawn=sample.space_group, expected_volume_A3=sample.expected_volume)
    row.update(numbers=numbers.tolist(), n_atoms=len(numbers), n_heavy=len(numbers))
    parameters = sample.parameters
    if not (np.isfinite(sample.positions).all() and np.isfinite(parameters).all()):
        return _refused(row, Status.FAILED, Reason.NAN, "the sampler gave NaN or infinity")
    row["positions"] = sample.positions.reshape(-1).tolist()
    if not is_valid_parameters(parameters):
        text = ", ".join(f"{p:.2f}" for p in parameters)
        return _refused(row, Status.REJECTED, Reason.BAD_CELL, f"parameters {text} close no cell")
    cell = parameters_to_cell(parameters)
    crystal = Crystal(numbers, sample.positions, cell, z)
    row.update(crystal_columns(crystal, hydrogens_missing=z * int(molecule.hydrogen_counts.sum())))
    sound, worst = bond_statistics(bond_errors(crystal, molecule.bonds))
    row.update(bonds_ok=sound, max_bond_error_A=worst)
    if heights(cell).min() < params.min_height_A:
        detail = f"cell height {heights(cell).min():.2f} Å is below {params.min_height_A} Å"
        return _refused(row, Status.REJECTED, Reason.BAD_CELL, detail)
    return row


def _refused(row: Row, status: Status, reason: Reason, detail: str) -> Row:
    row.update(status=str(status), reason=str(reason), detail=detail)
    return row
