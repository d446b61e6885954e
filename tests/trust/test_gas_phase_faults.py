"""An engine that crashes or hangs at the molecule, in a real worker process."""

import sys
from pathlib import Path

import pytest

from packflow_core.trust.gas_phase import BOX_A, compute_gas_phase
from packflow_core.workers import WorkerPool

FAULTS = Path(__file__).parents[1] / "faults"


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(FAULTS)])
    with WorkerPool(1) as pool:
        yield pool


def test_a_crash_and_a_hang_become_reasons_and_the_next_molecule_is_computed(pool):
    # The first edge of the cell tells this engine which candidate it is.
    box = round((BOX_A - 9.0) / 1e-3)
    for fault, told, limit_s in (("kill", "worker_lost", 60.0), ("hang", "timeout", 2.0)):
        engine = f"ase:faulty:engine?{fault}=[{box}]"
        gas = compute_gas_phase("C=O", engine, engine, pool, limit_s)
        assert gas.energy_eV is None
        assert told in gas.reason
        assert gas.n_conformers == 1
    sound = compute_gas_phase("C=O", "ase:faulty:engine", "sound", pool, 60.0)
    assert sound.energy_eV is not None
    assert sound.reason == ""
