"""The csp command with a stand-in for the generator: two molecules of formaldehyde in a box.

Everything else is real: the command line, Prefect, the workers, the engine, the store. Run as
``python stub_csp.py ARGUMENTS...``; STUB_BLOCK_S slows the sampling down, in s per call.
"""

import hashlib
import os
import sys
import time

import numpy as np

from packflow_core.crystal.crystal import Crystal
from packflow_core.store.rows import crystal_columns

#: C and O of one molecule, Å; the box is wide enough to be evaluated as it is, hence quick.
MOLECULE = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.21]])
BOX = 8.6


def generate(indices, *, smiles, z_values, seed, target, generator, params):
    """Two molecules in a box, another arrangement for each index; every fifth is rejected."""
    time.sleep(float(os.environ.get("STUB_BLOCK_S", "0")))
    rows = []
    for index in indices:
        rng = np.random.default_rng([seed, index])
        cell = np.diag(BOX * rng.uniform(1.0, 1.05, 3))
        shift = np.array([4.2, 4.2, 3.4]) + rng.uniform(-0.3, 0.3, 3)
        positions = np.concatenate([MOLECULE, shift + MOLECULE[:, [1, 2, 0]]])
        crystal = Crystal(np.array([6, 8, 6, 8]), positions, cell, 2)
        bad = index % 5 == 3
        rows.append(
            {
                "candidate_id": f"{target}-z2-{index:06d}", "index": index,
                "status": "rejected" if bad else "ok", "reason": "bad_cell" if bad else "",
                "detail": "", "engine": "stub", **crystal_columns(crystal, hydrogens_missing=4),
            }
        )  # fmt: skip
    return rows


def generator_identity(name):
    """As of a checkpoint."""
    return {"name": name, "sha256": hashlib.sha256(b"stub").hexdigest()}


if __name__ == "__main__":
    from packflow_core.stages import generate as module

    module.generate = generate
    module.generator_identity = generator_identity
    from flows.cli import main

    if sys.argv[1] in ("run", "compare"):
        # The wide box is a gas; as a crystal it would be refused.
        limits = [f"{stage}.min_density_ratio=0.01" for stage in ("relax", "rank")]
        sys.argv += [word for limit in limits for word in ("--set", limit)]
    main()
