"""UMA, Meta's universal models for atoms, through the package `fairchem-core`.

Wood et al., "UMA: A Family of Universal Models for Atoms" (2025). Task `omc` (molecular
crystals), charge 0, no spin. What the library needs, and gets here:

* Merged experts: the mixture of experts depends on composition, charge, spin and task alone, and
  merging it beforehand saves most of the time. A merged model serves one composition and silently
  unmerges at another, so every composition has a model of its own, merged on a lattice of its
  atoms: weights do not depend on which crystal came first.
* UMA-S-1.2 mixes by the number of atoms as well (a mean that counts one atom too many), so there
  a composition is that of the cell; everywhere else it is that of the smallest formula.
* A seed: it turns the frame of every bond by a random angle, which changes the last digits. Every
  call starts from the same seed, and the random numbers of everybody else stay as they are.
* Single precision: on the CPU the last digits change with the batch. There, where batching saves
  no time, crystals are evaluated one at a time, so that no result depends on its batch mates. On
  a GPU they are evaluated together.
* A network when weights are not there yet: `uma_files`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights
from packflow_core.engines.base import BaseEngine, EngineError, EngineMemoryError, EngineResult
from packflow_core.engines.memory import MemoryMeter, is_out_of_memory
from packflow_core.engines.supercell import MIN_HEIGHT
from packflow_core.engines.uma_files import checkpoint, fingerprint
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Atomic numbers and how many atoms of each, ascending.
Composition = tuple[tuple[int, int], ...]

TASK = "omc"
_QUANTITIES = frozenset({"energy", "forces", "stress"})

#: Merged models that are kept; another composition more and the one used longest ago goes.
MAX_MODELS = 4

#: What a call is assumed to take before one was measured, bytes per atom: four layers with 90
#: neighbours per atom.
_BYTES_PER_ATOM = 50e6
_MAX_ATOMS_CPU = 256
_MAX_ATOMS_GPU = 20_000

#: Å between the atoms of the lattice on which a model is merged.
_SPACING = 2.0
_SEED = 0


@dataclass(frozen=True)
class UMASystem:
    """What stays the same while a crystal is relaxed.

    Attributes:
        numbers: [N] atomic numbers.
        composition: crystals that share it are served by one merged model.
    """

    numbers: IntArray
    composition: Composition


class UMAEngine(BaseEngine):
    """Engines `uma-s-1p1` and its relatives, and `uma:/path/to/checkpoint.pt`.

    Args:
        name: one of `uma_files.NAMES`, or `uma:` and a path.
        device: "cpu", or "cuda" for the first GPU that is visible.
        precision: of weights and arithmetic.
        together: evaluate the crystals of a call as one batch; by default on a GPU only.

    Raises:
        UserInputError: not installed, no such device, no access to the weights, or a file that
            is no such checkpoint.
    """

    batched = True

    def __init__(
        self,
        name: str,
        device: str = "cpu",
        precision: Literal["float32", "float64"] = "float32",
        together: bool | None = None,
    ) -> None:
        if util.find_spec("fairchem") is None:
            raise UserInputError(
                f"The engine '{name}' needs the package fairchem-core; install it with "
                "pip install 'packflow-csp[uma]', or choose another engine."
            )
        self.name = name
        self._target = "cpu" if device == "cpu" else "cuda"
        self.device = _describe_device(name, self._target)
        self._together = self._target == "cuda" if together is None else together
        self._precision = precision
        self._path: Path = checkpoint(name)
        limit = _MAX_ATOMS_CPU if self._target == "cpu" else _MAX_ATOMS_GPU
        self._memory = MemoryMeter(self._target, _BYTES_PER_ATOM, limit)
        self._models: OrderedDict[Composition, Any] = OrderedDict()
        # Loaded at once, so that a bad file is told before any work is done.
        self._spare: Any = self._load()
        self._counts_atoms = self._spare.model.module.model_id == "UMA-S-1.2"

    @cached_property
    def identity(self) -> dict[str, str]:
        """Engine, task, checkpoint, precision and package version."""
        return {
            "engine": self.name,
            "task": TASK,
            "sha256": fingerprint(self._path),
            "precision": self._precision,
            "fairchem-core": metadata.version("fairchem-core"),
        }

    def prepare(self, crystal: Crystal) -> UMASystem:
        """Atoms and composition of `crystal`."""
        elements, counts = np.unique(crystal.numbers, return_counts=True)
        if not self._counts_atoms:
            counts = counts // math.gcd(*counts.tolist())
        composition = tuple(zip(elements.tolist(), counts.tolist(), strict=True))
        return UMASystem(crystal.numbers, composition)

    def compute(
        self,
        prepared: Sequence[UMASystem],
        positions: FloatArray,
        cells: FloatArray,
        n_atoms: IntArray,
    ) -> EngineResult:
        """See `Engine`; errors are BAD_CELL or NAN.

        Raises:
            EngineMemoryError: the batch is too large.
            RuntimeError: the library or the GPU broke; the process is no longer to be trusted.
        """
        size = len(prepared)
        ends = np.cumsum(n_atoms)
        spans = [slice(int(end - n), int(end)) for end, n in zip(ends, n_atoms, strict=True)]
        energies, stress = np.full(size, np.nan), np.full((size, 3, 3), np.nan)
        forces = np.full((int(ends[-1]) if size else 0, 3), np.nan)
        errors: dict[int, EngineError] = {}
        groups: dict[Composition | int, list[int]] = {}
        for k, system in enumerate(prepared):
            fault = _fault(positions[spans[k]], cells[k])
            if fault is not None:
                errors[k] = fault
                continue
            groups.setdefault(system.composition if self._together else k, []).append(k)
        for members in groups.values():
            model = self._model(prepared[members[0]].composition)
            found = self._predict(
                model, [(prepared[k].numbers, positions[spans[k]], cells[k]) for k in members]
            )
            for k, (energy, force, sigma) in zip(members, found, strict=True):
                if np.isfinite(energy) and np.isfinite(force).all() and np.isfinite(sigma).all():
                    energies[k], forces[spans[k]], stress[k] = energy, force, sigma
                else:
                    errors[k] = EngineError(Reason.NAN, "energy, forces or stress are not finite")
        return EngineResult(energies, forces, stress, np.asarray(n_atoms), errors)

    def atoms_per_call(self) -> int:
        """Atoms that fit into the memory of the device; few on the CPU, where more save nothing."""
        return self._memory.atoms()

    # -- models --------------------------------------------------------------------------------
    def _model(self, composition: Composition) -> Any:
        """The merged model of a composition."""
        model = self._models.pop(composition, None)
        if model is None:
            while len(self._models) >= MAX_MODELS:
                self._models.popitem(last=False)
            model, self._spare = self._spare, None
            if model is None:
                model = self._load()
            self._predict(model, [_lattice(composition)])
        self._models[composition] = model
        return model

    def _load(self) -> Any:
        try:
            import torch
            from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit

            settings = InferenceSettings(
                tf32=False,
                activation_checkpointing=False,
                merge_mole=True,
                compile=False,
                internal_graph_gen_version=2,
                base_precision_dtype=getattr(torch, self._precision),
            )
        except OSError as error:  # it makes a folder for downloads when it is imported
            raise UserInputError(
                f"The package fairchem-core cannot be loaded ({error}); set FAIRCHEM_CACHE_DIR to "
                "a folder that can be written."
            ) from error
        try:
            with _quiet(), _seeded(self._target):
                unit = load_predict_unit(
                    str(self._path), inference_settings=settings, device=self._target
                )
            tasks = unit.dataset_to_tasks
            able = {task.property for task in tasks.get(TASK, [])}
        except Exception as error:
            if is_out_of_memory(error):
                raise EngineMemoryError(f"loading '{self._path}': {error}") from error
            raise UserInputError(
                f"The file '{self._path}' is no UMA checkpoint that fairchem-core "
                f"{metadata.version('fairchem-core')} can load ({type(error).__name__}: "
                f"{_brief(error)}); get it again, or give another one."
            ) from error
        if not able >= _QUANTITIES:
            raise UserInputError(
                f"The checkpoint '{self._path}' has no energy, forces and stress for the task "
                f"'{TASK}' (its tasks: {', '.join(sorted(tasks))}); give a UMA checkpoint."
            )
        return unit

    def _predict(
        self, model: Any, systems: Sequence[tuple[IntArray, FloatArray, FloatArray]]
    ) -> list[tuple[float, FloatArray, FloatArray]]:
        """Energy, forces and stress of crystals of one composition (numbers, positions, cell)."""
        from fairchem.core.datasets.atomic_data import atomicdata_list_to_batch

        sizes = [len(numbers) for numbers, _, _ in systems]
        with self._memory.call(sum(sizes)), _quiet(), _seeded(self._target):
            batch = atomicdata_list_to_batch([self._data(*system) for system in systems])
            raw = model.predict(batch)
            energies, forces, stress = (
                raw[name].detach().cpu().numpy().astype(np.float64)
                for name in ("energy", "forces", "stress")
            )
        if not model.inference_settings.merge_mole:
            raise RuntimeError("fairchem unmerged a model, which would change its numbers")
        stress = stress.reshape(-1, 3, 3)
        stress = 0.5 * (stress + stress.transpose(0, 2, 1))
        parts = np.split(forces, np.cumsum(sizes)[:-1])
        return list(zip(energies.reshape(-1).tolist(), parts, stress, strict=True))

    def _data(self, numbers: IntArray, positions: FloatArray, cell: FloatArray) -> Any:
        """One crystal as fairchem wants it, atoms wrapped while there are digits enough."""
        import torch
        from fairchem.core.datasets.atomic_data import AtomicData

        dtype = getattr(torch, self._precision)
        frac = positions @ np.linalg.inv(cell)
        wrapped = (frac - np.floor(frac)) @ cell
        n = len(numbers)
        return AtomicData(
            pos=torch.tensor(wrapped, dtype=dtype),
            atomic_numbers=torch.tensor(numbers, dtype=torch.long),
            cell=torch.tensor(cell, dtype=dtype).view(1, 3, 3),
            pbc=torch.ones((1, 3), dtype=torch.bool),
            natoms=torch.tensor([n], dtype=torch.long),
            edge_index=torch.empty((2, 0), dtype=torch.long),
            cell_offsets=torch.empty((0, 3), dtype=dtype),
            nedges=torch.zeros(1, dtype=torch.long),
            charge=torch.zeros(1, dtype=torch.long),
            spin=torch.zeros(1, dtype=torch.long),
            fixed=torch.zeros(n, dtype=torch.long),
            tags=torch.zeros(n, dtype=torch.long),
            dataset=TASK,
        )


def _describe_device(name: str, target: str) -> str:
    if target == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise UserInputError(
            f"The engine '{name}' was asked to use a GPU, but torch {torch.__version__} sees none; "
            "use the device 'cpu', or install torch for CUDA and make the GPU visible."
        )
    index = torch.cuda.current_device()
    return f"cuda:{index} ({torch.cuda.get_device_name(index)})"


def _fault(positions: FloatArray, cell: FloatArray) -> EngineError | None:
    """Why a geometry is not shown to the model: one bad cell would take the memory of a batch."""
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        return EngineError(Reason.NAN, "positions or cell are not finite")
    volume = float(np.linalg.det(cell))
    if volume <= 0:
        return EngineError(Reason.BAD_CELL, f"cell volume {volume:g} Å3")
    low = float(heights(cell).min())
    if low < MIN_HEIGHT:
        return EngineError(Reason.BAD_CELL, f"cell height {low:.2f} Å, below {MIN_HEIGHT:g} Å")
    return None


def _lattice(composition: Composition) -> tuple[IntArray, FloatArray, FloatArray]:
    """Atoms of a composition on a simple cubic lattice: numbers [N], positions [N, 3], cell."""
    numbers = np.repeat(*np.array(composition, dtype=np.int64).T)
    side = math.ceil(len(numbers) ** (1 / 3))
    grid = np.indices((side, side, side)).reshape(3, -1).T[: len(numbers)]
    return numbers, np.asarray(grid * _SPACING), np.eye(3) * (side * _SPACING)


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + "..."


@contextlib.contextmanager
def _seeded(target: str) -> Iterator[None]:
    """The same random numbers in every call; fairchem also reseeds Python and NumPy globally."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if target == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep fairchem's chatter out of the logs; it speaks as the root logger, in warnings."""
    root = logging.getLogger()
    # Without a handler its first message would set up logging for the whole process.
    silent = logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(_is_not_chatter)
    try:
        yield
    finally:
        root.removeFilter(_is_not_chatter)
        root.removeHandler(silent)


def _is_not_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "fairchem" not in record.pathname
