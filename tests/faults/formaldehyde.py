"""A generator for the fault tests: formaldehyde in boxes whose first edge is the index."""

import hashlib

import numpy as np
from faulty import EDGE, STEP

from packflow_core.crystal.crystal import Crystal
from packflow_core.store.rows import crystal_columns

MOLECULE = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.21]])


def generate(indices, *, smiles, z_values, seed, target, generator, params):
    rows = []
    for index in indices:
        z = z_values[index % len(z_values)]
        rng = np.random.default_rng([seed, index])
        cell = np.diag([EDGE + STEP * index, 6.2, 6.2 * z])
        places = [np.array([3.0, 3.0, 6.2 * k + 1.5]) + rng.uniform(-0.3, 0.3, 3) for k in range(z)]
        stretch = rng.uniform(0.95, 1.05, (z, 1, 1))
        positions = np.concatenate([p + s * MOLECULE for p, s in zip(places, stretch, strict=True)])
        crystal = Crystal(np.tile([6, 8], z), positions, cell, z)
        rows.append(
            {
                "candidate_id": f"{target}-z{z}-{index:06d}", "index": index, "status": "ok",
                "reason": "", "detail": "", "engine": "stub",
                **crystal_columns(crystal, hydrogens_missing=2 * z),
            }
        )  # fmt: skip
    return rows


def generator_identity(name):
    return {"name": name, "sha256": hashlib.sha256(b"formaldehyde").hexdigest()}
