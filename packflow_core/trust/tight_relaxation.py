"""The convergence guard: is a relaxed crystal at its minimum, or did the optimiser stop early?"""

from __future__ import annotations

from typing import Any

import numpy as np

from packflow_core.crystal.crystal import Crystal
from packflow_core.relax.protocol import RelaxParams

#: How much tighter than the run forces are relaxed, and stresses.
TIGHTER = 5.0
#: Stress where the run names none, GPa.
_STRESS_GPA = 0.02
_STEPS = 3000


def tighter(params: RelaxParams) -> RelaxParams:
    """Parameters of a relaxation to a fifth of the forces and stresses of `params`.

    Args:
        params: of the run's last relaxation; `paper`, which stops without looking at the stress,
            becomes `converged`.
    """
    stress = params.max_stress_GPa
    values = params.model_dump() | {
        "protocol": "converged",
        "fmax": params.fmax / TIGHTER,
        "max_stress_GPa": _STRESS_GPA if stress is None else min(stress / TIGHTER, _STRESS_GPA),
        "max_steps": max(params.max_steps, _STEPS),
        "exp_cell_factor": params.exp_cell_factor or "sqrt_atoms",
    }
    return RelaxParams.model_validate(values)


def relax_tightly(
    engine: str, crystal: Crystal, smiles: str, params: RelaxParams
) -> dict[str, Any]:
    """Relax a crystal on from where it is; runs in a worker.

    Returns:
        `status`, `reason`, `detail`, `energy_eV` (of the cell), `fmax_eV_A`, `stress_GPa`,
        `n_steps`, `positions` [3 N] and `cell` [9] in Å; energies None where there is none.
    """
    from packflow_core.chem.molecule import Molecule
    from packflow_core.engines.registry import get_engine
    from packflow_core.relax.relaxation import relax_crystal

    bonds = Molecule.from_smiles(smiles).bonds_h
    done = relax_crystal(crystal, get_engine(engine), params, bonds)
    last = done.last
    return {
        "status": str(done.status),
        "reason": str(done.reason),
        "detail": done.detail,
        "energy_eV": _finite(None if last is None else last.energy),
        "fmax_eV_A": _finite(None if last is None else last.fmax),
        "stress_GPa": _finite(None if last is None else last.stress),
        "n_steps": int(done.n_steps),
        "positions": done.crystal.positions.reshape(-1).tolist(),
        "cell": done.crystal.cell.reshape(-1).tolist(),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
