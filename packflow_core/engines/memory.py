"""How many atoms fit into a call, from the memory there is and the memory a call took."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

from packflow_core.engines.base import EngineMemoryError

#: Fraction of the free memory of a GPU that a call may plan to use; crystals that shrink have
#: more neighbours, and the allocator leaves gaps.
_GPU_SHARE = 0.7
#: Fraction of the free memory of the system: other workers see the same memory as free.
_CPU_SHARE = 0.25
#: Smaller calls tell of constant costs, not of the cost of an atom.
_MIN_ATOMS_MEASURED = 32


class MemoryMeter:
    """Memory per atom of one engine on one device.

    Args:
        device: "cpu" or "cuda".
        bytes_per_atom: what to assume before anything was measured.
        max_atoms: never plan for more.
    """

    def __init__(self, device: str, bytes_per_atom: float, max_atoms: int) -> None:
        self._gpu = device != "cpu"
        self._assumed = bytes_per_atom
        self._measured = 0.0
        self._max_atoms = max_atoms

    @contextlib.contextmanager
    def call(self, atoms: int) -> Iterator[None]:
        """Around a call with so many atoms; learns what it took, on a GPU.

        Raises:
            EngineMemoryError: in place of the library's error when the memory ran out.
        """
        import torch

        before = 0
        if self._gpu:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        failure = ""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = f"{atoms} atoms in one call: {' '.join(str(error).split())}"
        if failure:
            # Outside the handler, where the traceback no longer holds on to the tensors.
            gc.collect()
            if self._gpu:
                torch.cuda.empty_cache()
            raise EngineMemoryError(failure)
        if self._gpu and atoms >= _MIN_ATOMS_MEASURED:
            took = torch.cuda.max_memory_allocated() - before
            self._measured = max(self._measured, took / atoms)

    def atoms(self) -> int:
        """Atoms that a call may hold now; at least 1."""
        per_atom = self._measured or self._assumed
        free = _GPU_SHARE * free_gpu_memory() if self._gpu else _CPU_SHARE * free_system_memory()
        return int(min(max(free / per_atom, 1), self._max_atoms))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def free_gpu_memory() -> int:
    """Bytes that torch can still get on the current GPU, its own unused blocks included."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def free_system_memory() -> int:
    """Bytes that this process can still get: of the machine, or of its control group if less."""
    free = [_available()]
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        with contextlib.suppress(OSError, ValueError):  # another system, or "max"
            free.append(int(Path(limit).read_text()) - int(Path(usage).read_text()))
    return max(min(free), 0)


def _available() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 << 30  # unknown on this system
