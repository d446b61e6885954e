"""The engine `springs`: molecules on springs with Lennard-Jones wells between them.

For demonstrations, tests and experiments with pre-relaxation, not for ranking. Each molecule is
held at the geometry it has in the crystal that the engine was prepared for, so its energy there
is zero and conformers cannot be compared; molecules see each other through the wells of UFF and a
rough hydrogen bond, without any charges (`spring_terms`). What it is good at: a call with
thousands of atoms takes milliseconds, and forces stay finite when atoms overlap.

It is no part of the default way: for twelve candidates of OBEQOD, relaxing with it first saved
`gfnff` no steps, and 11 of them ended at other energies, about as many lower as higher
(`benchmarks/prerelax.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import BaseEngine, EngineError, EngineResult
from packflow_core.engines.memory import MemoryMeter
from packflow_core.engines.spring_chunk import Chunk, SpringsSystem, Workspace
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

VERSION = "demo1"

#: Å beyond the cutoff that neighbour lists reach.
SKIN = 1.0

#: Atoms that are computed together: on a CPU as many as keep the pairs in its cache.
_CHUNK_ATOMS = {"cpu": 512, "cuda": 8192}

#: What a call takes, before one was measured: 150 to 250 pairs for each atom, 50 bytes each, and
#: twice that in a crystal that is too dense.
_BYTES_PER_ATOM = 25_000
_MAX_ATOMS = 4096


class SpringsEngine(BaseEngine):
    """Engine `springs`.

    On a CPU the numbers of a crystal are the same to the last bit whatever its batch mates and
    the age of the neighbour lists; on a GPU sums are taken in any order and last digits vary.

    Args:
        device: "cpu", or a CUDA device of torch, for example "cuda" or "cuda:0".
        skin: Å that neighbour lists reach beyond the cutoff; changes nothing but the speed.

    Raises:
        UserInputError: a GPU is asked for, but torch sees none.
    """

    name = "springs"
    # A fresh one has its springs at rest: not another opinion about the same molecule, so there is
    # nothing to check at the end.
    remembers = False
    batched = True

    def __init__(self, device: str = "cpu", skin: float = SKIN) -> None:
        self._device = torch.device(device)
        self._skin = skin
        self.device = device
        if self._device.type == "cuda":
            if not torch.cuda.is_available():
                raise UserInputError(
                    f"The engine 'springs' was asked to use a GPU, but torch {torch.__version__} "
                    "sees none; use the device 'cpu', or install torch for CUDA and make the GPU "
                    "visible."
                )
            index = self._device.index or 0
            self.device = f"cuda:{index} ({torch.cuda.get_device_name(index)})"
        self._memory = MemoryMeter(self._device.type, _BYTES_PER_ATOM, _MAX_ATOMS)
        self._work = Workspace(self._device)
        self._chunks: dict[tuple[int, ...], Chunk] = {}

    @property
    def identity(self) -> dict[str, str]:
        """Engine and version; the numbers depend on nothing else."""
        return {"engine": self.name, "version": VERSION}

    def prepare(self, crystal: Crystal) -> SpringsSystem:
        """Springs at rest in `crystal`.

        Raises:
            EngineError: ENGINE where an element has no parameters.
        """
        return SpringsSystem(crystal)

    def compute(
        self,
        prepared: Sequence[SpringsSystem],
        positions: FloatArray,
        cells: FloatArray,
        n_atoms: IntArray,
    ) -> EngineResult:
        """See `Engine`; errors are BAD_CELL or NAN."""
        batch = _Batch(prepared, positions, cells, n_atoms)
        # Chunks that an exception leaves half done are lost with it.
        chunks, self._chunks = self._chunks, {}
        with self._memory.call(len(batch.positions)):
            self._chunks = self._run(batch, chunks)
        return batch.result()

    def _run(
        self, batch: _Batch, known: dict[tuple[int, ...], Chunk]
    ) -> dict[tuple[int, ...], Chunk]:
        """Fill the batch; returns its chunks, for the next call is likely to need the same."""
        used: dict[tuple[int, ...], Chunk] = {}
        for members in batch.split(_CHUNK_ATOMS[self._device.type]):
            systems = [batch.prepared[k] for k in members]
            # A chunk holds its systems, so no others can have their ids.
            key = tuple(id(system) for system in systems)
            chunk = known.get(key) or Chunk(systems, self._device, self._skin)
            used[key] = chunk
            rows = np.concatenate([batch.rows(k) for k in members])
            positions, cells = batch.positions[rows], batch.cells[members]
            for slot, error in chunk.update(positions, cells).items():
                batch.errors[members[slot]] = error
            energies, gradients, images = chunk.gradients(positions, cells, self._work)
            batch.energies[rows] = energies
            batch.gradients[rows] = gradients
            batch.images[rows] = images
        return used

    def atoms_per_call(self) -> int:
        """See `Engine`; more than 4096 save no more time."""
        return self._memory.atoms()


class _Batch:
    """One call: what came in, and the sums over pairs for each atom."""

    def __init__(
        self,
        prepared: Sequence[SpringsSystem],
        positions: FloatArray,
        cells: FloatArray,
        n_atoms: IntArray,
    ) -> None:
        self.prepared = prepared
        self.n_atoms = np.asarray(n_atoms, dtype=np.int64)
        self.cells = np.asarray(cells, dtype=np.float64).reshape(-1, 3, 3)
        self._ends = np.cumsum(self.n_atoms)
        self._crystal = np.repeat(np.arange(len(prepared)), self.n_atoms)
        total = len(self._crystal)
        self.energies: FloatArray = np.full(total, np.nan)
        self.gradients: FloatArray = np.full((total, 3), np.nan)
        self.images: FloatArray = np.full((total, 3, 3), np.nan)
        self.errors: dict[int, EngineError] = {}
        given = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
        self._check(given)
        hops = np.concatenate([system.hops for system in prepared]) if total else given
        vectors = self.cells[self._crystal]
        with np.errstate(invalid="ignore", over="ignore"):
            # No matrix product: its rounding depends on the size of the batch.
            self.positions = (
                given
                - hops[:, 0:1] * vectors[:, 0]
                - hops[:, 1:2] * vectors[:, 1]
                - hops[:, 2:3] * vectors[:, 2]
            )

    def _check(self, positions: FloatArray) -> None:
        finite = np.asarray(np.isfinite(self.cells).all(axis=(1, 2)))
        lost = self._crystal[~np.isfinite(positions).all(axis=1)]
        finite[lost] = False
        with np.errstate(invalid="ignore"):
            self.volumes = np.linalg.det(self.cells)
        for k in np.flatnonzero(~finite):
            self.errors[int(k)] = EngineError(Reason.NAN, "positions or cell are not finite")
        for k in np.flatnonzero(finite & ~(self.volumes > 0)):
            self.errors[int(k)] = EngineError(
                Reason.BAD_CELL, f"cell volume {self.volumes[k]:g} Å3"
            )

    def rows(self, k: int) -> IntArray:
        """Rows of the atoms of crystal k."""
        return np.arange(self._ends[k] - self.n_atoms[k], self._ends[k])

    def split(self, atoms: int) -> list[list[int]]:
        """Sound crystals in groups of about `atoms` atoms."""
        groups: list[list[int]] = []
        room = 0
        for k, n in enumerate(self.n_atoms.tolist()):
            if k in self.errors:
                continue
            if n > room:
                groups.append([])
                room = max(atoms, n)
            groups[-1].append(k)
            room -= n
        return groups

    def result(self) -> EngineResult:
        """Energies, forces and stress, of the sums over pairs."""
        size = len(self.prepared)

        def total(values: FloatArray) -> FloatArray:
            # Adds one after the other, whatever else is in the batch.
            return np.bincount(self._crystal, values, size).astype(np.float64)

        images = np.stack([total(column) for column in self.images.reshape(-1, 9).T], axis=-1)
        images = images.reshape(size, 3, 3)
        starts = self._ends - self.n_atoms
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # Forces add up to zero, so any origin will do; a near one loses no digits.
            near = self.positions - self.positions[starts[self._crystal]]
            virial = np.zeros((size, 3, 3))
            for a in range(3):
                for b in range(3):
                    virial[:, a, b] = total(near[:, a] * self.gradients[:, b])
                    for c in range(3):
                        virial[:, a, b] += self.cells[:, c, a] * images[:, c, b]
            stress = 0.5 * (virial + virial.transpose(0, 2, 1)) / self.volumes[:, None, None]
        energies = total(self.energies)
        forces = -self.gradients
        broken = ~(np.isfinite(energies) & np.isfinite(stress).all(axis=(1, 2)))
        broken[self._crystal[~np.isfinite(forces).all(axis=1)]] = True
        for k in np.flatnonzero(broken):
            self.errors.setdefault(
                int(k), EngineError(Reason.NAN, "energy, forces or stress are not finite")
            )
        bad = sorted(self.errors)
        energies[bad] = np.nan
        stress[bad] = np.nan
        forces[np.isin(self._crystal, bad)] = np.nan
        return EngineResult(energies, forces, stress, self.n_atoms, self.errors)
