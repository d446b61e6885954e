"""What samples of a checkpoint look like before any repair: bonds, density, clashes.

The numbers of the model card. Densities are compared with the median of the molecule's own
low-energy crystals, as no single crystal is "the" answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import BOND_TOLERANCE, clashing_atoms
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import is_valid_parameters, parameters_to_cell
from packflow_core.model.checkpoint import Model
from packflow_core.model.sampler import Sampler, Schedule
from packflow_core.training.data import TrainingSet

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SampleQuality:
    """Averages over molecules of averages over samples.

    Attributes:
        molecules, samples: how many.
        valid_cells: fraction of samples with a cell that closes.
        bonds_within: fraction of heavy-atom bonds within 0.4 Å of the covalent sum.
        molecules_sound: fraction of generated molecules with every bond within 0.4 Å.
        bond_error_A: median absolute deviation of a bond from the covalent sum, Å.
        density_error: mean absolute relative deviation from the molecule's median density.
        clash_rate: fraction of heavy atoms with an intermolecular clash.
        seconds: wall time per sample, s.
    """

    molecules: int
    samples: int
    valid_cells: float
    bonds_within: float
    molecules_sound: float
    bond_error_A: float
    density_error: float
    clash_rate: float
    seconds: float


def evaluate(
    model: Model,
    data: TrainingSet,
    *,
    samples: int = 16,
    schedule: Schedule | None = None,
    max_molecules: int = 0,
    seed: int = 0,
) -> SampleQuality:
    """Sample every molecule of a set at its most frequent Z and measure.

    Args:
        model: the network.
        data: crystals of the molecules, for Z and the median density.
        samples: samples per molecule.
        schedule: of the sampler.
        max_molecules: evenly spaced subset; 0 for all.
        seed: of the noise.
    """
    chosen = np.arange(len(data.smiles))
    if max_molecules and max_molecules < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, max_molecules).astype(int)]
    results: list[dict[str, float]] = []
    errors: list[FloatArray] = []
    started = time.monotonic()
    for m in chosen:
        crystals = np.flatnonzero(data.molecule == m)
        z = int(np.bincount(data.z[crystals]).argmax())
        volumes = np.linalg.det(data.cells[crystals].astype(np.float64)) / data.z[crystals]
        molecule = Molecule.from_smiles(data.smiles[m])
        one, bond_errors = _evaluate_molecule(
            Sampler(model, molecule), molecule, z, float(np.median(volumes)),
            samples, schedule, seed,
        )  # fmt: skip
        results.append(one)
        errors.append(bond_errors)
    mean = {k: float(np.nanmean([r[k] for r in results])) for k in results[0]}
    return SampleQuality(
        molecules=len(chosen),
        samples=samples,
        bond_error_A=float(np.median([np.median(e) for e in errors if len(e)])),
        seconds=(time.monotonic() - started) / (len(chosen) * samples),
        **mean,
    )


def _evaluate_molecule(
    sampler: Sampler,
    molecule: Molecule,
    z: int,
    volume: float,
    samples: int,
    schedule: Schedule | None,
    seed: int,
) -> tuple[dict[str, float], FloatArray]:
    n, bonds = molecule.n_heavy, molecule.bonds
    radii = COVALENT_RADII[molecule.numbers]
    expected = radii[bonds[:, 0]] + radii[bonds[:, 1]]
    errors, sound, density, clash, valid = [], [], [], [], 0
    for sample in sampler.sample(z, range(samples), seed, schedule):
        x = sample.positions.reshape(z, n, 3)
        length = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1)
        error = np.abs(length - expected)
        errors.append(error.ravel())
        sound.append((error <= BOND_TOLERANCE).all(1).mean())
        if not is_valid_parameters(sample.parameters):
            continue
        valid += 1
        cell = parameters_to_cell(sample.parameters)
        # Same composition: relative density error is that of the inverse volumes.
        density.append(abs(volume * z / np.linalg.det(cell) - 1.0))
        crystal = Crystal(np.tile(molecule.numbers, z), sample.positions, cell, z)
        clash.append(clashing_atoms(crystal).mean())
    every = np.concatenate(errors)
    return {
        "valid_cells": valid / samples,
        "bonds_within": float((every <= BOND_TOLERANCE).mean()) if every.size else float("nan"),
        "molecules_sound": float(np.mean(sound)),
        "density_error": float(np.mean(density)) if density else float("nan"),
        "clash_rate": float(np.mean(clash)) if clash else float("nan"),
    }, every
