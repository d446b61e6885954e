"""An engine that misbehaves at chosen candidates: `ase:faulty:engine?kill=[3]&log="/path"`.

Molecules of formaldehyde are Lennard-Jones clusters that do not see each other, so every crystal
relaxes quickly and the cell stays; its first edge tells which candidate it is.
"""

import os
import time
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

EDGE, STEP = 9.0, 1e-3


class Faulty(Calculator):
    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, log, at, slow, faults):
        super().__init__()
        self.inner = LennardJones(sigma=1.1, epsilon=0.05, rc=3.0, smooth=True)
        self.log, self.at, self.slow, self.faults = log, at, slow, faults
        self.calls = 0

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        index = round((atoms.cell[0, 0] - EDGE) / STEP)
        self.calls += 1
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{index} {os.getpid()}\n")
        time.sleep(self.slow)
        fault = next((name for name, members in self.faults.items() if index in members), None)
        if self.calls <= self.at:
            fault = None
        if fault == "kill":
            os.kill(os.getpid(), 9)
        if fault == "leave":
            os._exit(0)
        if fault == "hang":
            time.sleep(3600)
        if fault == "raise":
            raise RuntimeError("the SCF exploded <b>badly</b>")
        if fault == "once":  # the first process that meets it dies
            marker = Path(f"{self.log}.{index}")
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), 9)
        self.inner.calculate(atoms, ["energy", "forces"], system_changes)
        forces = self.inner.results["forces"]
        if fault == "nan":
            forces = forces * np.nan
        if fault == "shape":
            forces = forces[:-1]
        energy = self.inner.results["energy"]
        self.results = {
            "energy": energy, "free_energy": energy, "forces": forces, "stress": np.zeros(6),
        }  # fmt: skip


def engine(log="", at=1, slow=0.0, **faults):
    """Calculator with faults: keyword names the fault, its value the candidates.

    Args:
        log: file that gets a line per evaluation.
        at: evaluations of each calculator that go well first; 1 spares the relaxation of the
            hydrogens where that makes no step.
        slow: seconds an evaluation takes.
    """
    return Faulty(log, at, slow, faults)
