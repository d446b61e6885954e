"""Genarris, the external program that PackFlow is compared with, run under MPI.

    params = GenarrisParams(method="rigid_press", z_values=(4,)).for_budget(100)
    write_inputs(folder, molecule, pool.positions[0], params)
    run_genarris(folder, params, on_progress)
    print(outcome(folder).sentence)
    proposals = shortlist(read_structures(folder), 100, seed=0)

A folder serves one run: one molecule, conformer and Z. What is read from it can be read again at
any time, also from a folder whose run was killed.

Source: Yang et al., J. Chem. Theory Comput. 2025, 21, 11318 (Genarris 3); the behaviour is that
of version 3.1.4.
"""

from __future__ import annotations

from packflow_core.baselines.genarris_molecule import read_conformer
from packflow_core.baselines.genarris_outcome import GenarrisOutcome, outcome
from packflow_core.baselines.genarris_program import (
    GenarrisProgram,
    find_genarris,
    require_genarris,
)
from packflow_core.baselines.genarris_progress import GenarrisProgress, ProgressReader
from packflow_core.baselines.genarris_rows import genarris_row
from packflow_core.baselines.genarris_run import GenarrisRun, read_run, run_genarris
from packflow_core.baselines.genarris_settings import (
    GENARRIS_ELEMENTS,
    GenarrisParams,
    GenarrisRequest,
    genarris_seed,
    read_request,
    write_inputs,
)
from packflow_core.baselines.genarris_shortlist import shortlist
from packflow_core.baselines.genarris_structures import GenarrisStructure, read_structures
from packflow_core.chem.conformer_atoms import match_atoms

__all__ = [
    "GENARRIS_ELEMENTS",
    "GenarrisOutcome",
    "GenarrisParams",
    "GenarrisProgram",
    "GenarrisProgress",
    "GenarrisRequest",
    "GenarrisRun",
    "GenarrisStructure",
    "ProgressReader",
    "find_genarris",
    "genarris_row",
    "genarris_seed",
    "match_atoms",
    "outcome",
    "read_conformer",
    "read_request",
    "read_run",
    "read_structures",
    "require_genarris",
    "run_genarris",
    "shortlist",
    "write_inputs",
]
