"""The gas-phase molecule: the reference that lattice energies are counted from.

The lowest conformer of a search (`chem.conformer_search`), each relaxed by the engine of the
crystals, alone in a large box. A pure function of molecule and engine: the conformers, the
crystals and the settings of a run play no part, so that it may be kept and shared between runs.

An engine that sums electrostatics over periodic images feels the images of a polar molecule. With
tinfoil boundaries that error goes with the inverse volume of the box (Makov and Payne, Phys. Rev.
B 1995, 51, 4014, for cubic boxes of neutral molecules); two boxes give the limit of an infinite
one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from packflow_core.engines.base import EV_TO_KJ_MOL, EngineError, boxed

if TYPE_CHECKING:
    from packflow_core.workers import WorkerPool

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

#: Raised where the same molecule and engine give another energy.
VERSION = 1
#: Conformers relaxed at most, those that the force field of the search finds lowest.
MAX_CONFORMERS = 30
#: Conformers up to this far above the lowest one by the force field of the search, kJ/mol. Wide,
#: because force field and engine order conformers differently.
WINDOW_KJ_MOL = 50.0
#: Largest force on an atom at the end, eV/Å.
FMAX = 0.02
#: Edges of the two boxes, Å, and how much larger the second one is where the first has to grow.
BOX_A, SECOND_BOX = 25.0, 1.4
#: Relaxations that may fail before the first success; an engine that hangs is not tried for ever.
_FAILURES = 3
#: Seconds that the search for conformers may take.
SEARCH_LIMIT_S = 1800.0


@dataclass(frozen=True)
class GasPhase:
    """The relaxed molecule on its own, or why there is none.

    Attributes:
        key: hash of molecule, engine and the method of this module, see `gas_phase_key`.
        smiles: the molecule.
        engine: identity of the engine.
        energy_eV: energy of the lowest conformer in an infinite box, eV; None where it could not
            be computed.
        reason: why there is no energy, one sentence; empty otherwise.
        numbers: [n] atomic numbers.
        positions: [3 n] Å, the lowest conformer.
        n_conformers: conformers that the search gave and that were tried.
        n_relaxed: those that were relaxed and kept their bonds and stereochemistry.
        conformer_energies_kJ_mol: of those, above the lowest, ascending.
        box_correction_kJ_mol: what the limit of an infinite box added to the energy in a box with
            an edge of 25 Å or more.
        wall_s: working seconds.
    """

    key: str
    smiles: str
    engine: str
    energy_eV: float | None = None
    reason: str = ""
    numbers: tuple[int, ...] = ()
    positions: tuple[float, ...] = ()
    n_conformers: int = 0
    n_relaxed: int = 0
    conformer_energies_kJ_mol: tuple[float, ...] = ()
    box_correction_kJ_mol: float | None = None
    wall_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; floats keep every digit."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            ValueError, TypeError: it is something else.
        """
        lists = ("numbers", "positions", "conformer_energies_kJ_mol")
        given: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in values.items()}
        found = cls(**given)
        if (found.energy_eV is None) == (found.reason == ""):
            raise ValueError("a gas-phase reference has an energy or a reason, never both")
        return found


def gas_phase_key(smiles: str, engine: str) -> str:
    """Hash of all that the energy depends on.

    Args:
        smiles: canonical SMILES of the molecule.
        engine: identity of the engine, see `engines.registry.engine_identity`.
    """
    facts = [VERSION, smiles, engine, MAX_CONFORMERS, WINDOW_KJ_MOL, FMAX, BOX_A, SECOND_BOX]
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def compute_gas_phase(
    smiles: str,
    engine: str,
    identity: str,
    pool: WorkerPool,
    limit_s: float,
    go_on: Callable[[], None] = lambda: None,
) -> GasPhase:
    """Search the conformers of a molecule and relax them in workers; the lowest one counts.

    Args:
        smiles: canonical SMILES.
        engine: name of the engine.
        identity: its identity.
        pool: the workers; what hangs or crashes there costs one conformer.
        limit_s: time limit of one relaxation, s.
        go_on: called after each outcome; what it raises ends the work, for runs that are stopped.

    Returns:
        The reference, with a reason instead of an energy where nothing could be relaxed.
    """
    began = time.perf_counter()
    nothing = GasPhase(gas_phase_key(smiles, identity), smiles, identity)
    search = next(iter(pool.map(search_molecule, [(0, (smiles,))], SEARCH_LIMIT_S)))
    go_on()
    if search.error is not None or isinstance(search.value, str):
        why = search.value if search.error is None else f"{search.error}: {search.detail}"
        return replace(nothing, reason=f"No conformer could be made ({why}).")
    numbers, starts = search.value
    relaxed: dict[int, tuple[float, float, FloatArray]] = {}
    failures: dict[int, str] = {}
    stop: list[bool] = []

    def items() -> Iterator[tuple[int, tuple[Any, ...]]]:
        for k, start in enumerate(starts):
            if stop:
                return
            yield k, (smiles, engine, numbers, start)

    for outcome in pool.map(relax_molecule, items(), limit_s):
        go_on()
        k = int(str(outcome.key))
        if outcome.error is not None:
            failures[k] = f"{outcome.error}: {outcome.detail}"
        elif isinstance(outcome.value, str):
            failures[k] = outcome.value
        else:
            relaxed[k] = outcome.value
        if not relaxed and len(failures) >= _FAILURES:
            stop.append(True)
    tried = len(relaxed) + len(failures)
    wall_s = time.perf_counter() - began
    if not relaxed:
        first = failures[min(failures)].rstrip(".")
        return replace(
            nothing,
            reason=f"None of {tried} conformers could be relaxed by {engine} alone in a box; the "
            f"first: {first}.",
            n_conformers=tried,
            wall_s=wall_s,
        )
    for k, why in sorted(failures.items()):
        logger.warning("gas phase: conformer %d was not relaxed: %s", k, why)
    # Rounded, so that of equal conformers the same one is taken on every machine.
    lowest = min(relaxed, key=lambda k: (round(relaxed[k][0], 7), k))
    energy, in_box, positions = relaxed[lowest]
    above = sorted(EV_TO_KJ_MOL * (value[0] - energy) for value in relaxed.values())
    return replace(
        nothing,
        energy_eV=energy,
        numbers=tuple(int(number) for number in numbers),
        positions=tuple(float(x) for x in np.asarray(positions).reshape(-1)),
        n_conformers=tried,
        n_relaxed=len(relaxed),
        conformer_energies_kJ_mol=tuple(round(value, 4) for value in above),
        box_correction_kJ_mol=EV_TO_KJ_MOL * (energy - in_box),
        wall_s=wall_s,
    )


# -- in workers ---------------------------------------------------------------------------------
def search_molecule(smiles: str) -> tuple[list[int], list[FloatArray]] | str:
    """Atomic numbers and conformers [n, 3] Å to start from, or why there are none."""
    from packflow_core.chem.conformer_params import ConformerParams
    from packflow_core.chem.conformer_search import search_conformers
    from packflow_core.chem.conformers import ConformerError
    from packflow_core.chem.molecule import Molecule

    molecule = Molecule.from_smiles(smiles)
    params = ConformerParams(window_kJ_mol=WINDOW_KJ_MOL, max_conformers=MAX_CONFORMERS)
    try:
        found = search_conformers(molecule, params)
    except ConformerError as error:
        return str(error).rstrip(".")
    return molecule.numbers_h.tolist(), [np.array(x) for x in found.positions]


def relax_molecule(
    smiles: str, engine: str, numbers: list[int], start: FloatArray
) -> tuple[float, float, FloatArray] | str:
    """One conformer relaxed: energy (eV) in an infinite box and in the first one, positions.

    Returns:
        The energies and the positions [n, 3] Å; or a text that says why there are none.
    """
    from packflow_core.chem.conformer_atoms import is_bonded_as
    from packflow_core.chem.molecule import Molecule
    from packflow_core.chem.stereo import stereo_of
    from packflow_core.engines.registry import get_engine
    from packflow_core.relax.relaxation import gas_phase

    molecule = Molecule.from_smiles(smiles)
    calculator = get_engine(engine)
    try:
        in_box, positions = gas_phase(calculator, np.array(numbers), start, FMAX)
        energy = infinite_box(calculator, np.array(numbers), positions)
    except EngineError as error:
        return error.detail
    if not np.isfinite(energy):
        return "the energy is not finite"
    if len(numbers) > 1 and not is_bonded_as(molecule, positions):
        return "the molecule changed its bonds when it was relaxed alone"
    if stereo_of(molecule).inverted_in(positions).any():
        return "a stereo centre inverted when the molecule was relaxed alone"
    return float(energy), float(in_box), positions


def infinite_box(calculator: Any, numbers: NDArray[np.int64], positions: FloatArray) -> float:
    """Energy in eV of a molecule in the limit of an infinite box, from two boxes.

    Args:
        calculator: an `Engine`.
        numbers: [n] atomic numbers.
        positions: [n, 3] Å.

    Raises:
        EngineError: the engine fails.
    """
    small = boxed(numbers, positions, BOX_A)
    large = boxed(numbers, positions, SECOND_BOX * float(small.cell[0, 0]))
    # One prepared system each: a topology or a density of the other box must not matter.
    energies = [float(calculator.evaluate([box]).energies[0]) for box in (small, large)]
    share = small.volume / (large.volume - small.volume)
    return energies[1] + (energies[1] - energies[0]) * share
