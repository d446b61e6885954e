"""Rows of the stage `generate`, whatever makes the candidates; Genarris has its own module.

The same function serves this process, its workers and MPI ranks: a candidate depends on the run's
spec and its index alone, so it does not matter who makes it, nor together with whom.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence

from packflow_core.baselines.names import family_of
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import PackflowError
from packflow_core.spec import RunSpec
from packflow_core.stages.density_window import apply_windows, volume_scale
from packflow_core.stages.generate_params import GenerateParams
from packflow_core.stages.plan import z_of
from packflow_core.stages.recording import shorten
from packflow_core.stages.run_store import RunStore
from packflow_core.stages.z_shares import block_of
from packflow_core.store.rows import Row, next_row
from packflow_core.store.schema import Reason, Status

logger = logging.getLogger(__name__)

#: Candidates of one Z that the sampler integrates together; work that ends elsewhere is right
#: too, but integrates a block twice.
_SAMPLER_BLOCK = 16
#: Candidates that are packed and pressed together; more save little time, and a lost worker
#: costs them all another attempt.
_PACKING_BLOCK = 32


def block_size(spec: RunSpec) -> int:
    """Consecutive candidates that are best made, and written, together."""
    if family_of(spec.generator) == "packflow":
        return block_of(spec.z_cycle, _SAMPLER_BLOCK)
    return _PACKING_BLOCK


def make_rows(run: RunStore, work: Sequence[tuple[int, int]]) -> list[Row]:
    """Complete rows of candidates of the generators PackFlow, `random` and `random+press`.

    Args:
        run: its spec says which generator; nothing is written.
        work: pairs (candidate index, number of this attempt).

    Returns:
        One row for each pair, in their order; faults of candidates are rows with a reason.

    Raises:
        PackflowError: no candidate can be made at all, for example without the checkpoint.
        MemoryError: the block does not fit into memory.
    """
    indices = [index for index, _ in work]
    began = time.perf_counter()
    try:
        made = {int(row["index"]): row for row in _made(run, indices)}
    except (PackflowError, MemoryError):
        raise
    except Exception as error:
        logger.exception("candidates %d to %d could not be made", indices[0], indices[-1])
        sentence = f"{type(error).__name__}: {error}"
        made = {i: unmade(run, i, Reason.INTERNAL, sentence) for i in indices}
    each = (time.perf_counter() - began) / max(1, len(indices))
    rows = []
    for index, attempt in work:
        row = made.get(index)
        if row is None:
            row = unmade(run, index, Reason.INTERNAL, "the generator left it out")
        rows.append(completed(run, row, attempt, each))
    return rows


def completed(run: RunStore, row: Row, attempt: int, wall_s: float) -> Row:
    """The row with what is the run's, not the generator's: its columns and its windows."""
    spec = run.plan.spec
    row.update(
        campaign=spec.campaign,
        target=spec.name,
        method=spec.method,
        seed=spec.seed,
        stage_key=run.plan.key("generate"),
        attempt=attempt,
        wall_s=wall_s,
        host=socket.gethostname(),
    )
    row.setdefault("device", "cpu")
    return apply_windows(row, spec.density, spec.volume)


def unmade(run: RunStore, index: int, reason: Reason, detail: str) -> Row:
    """Row of a candidate that was attempted and is not there."""
    spec = run.plan.spec
    z = z_of(index, spec.z_cycle)
    birth: Row = {"candidate_id": f"{spec.name}-z{z}-{index:06d}", "index": index, "z": z}
    return next_row(
        birth, status=Status.FAILED, reason=reason, detail=shorten(detail),
        engine=run.plan.stages["generate"].identity, device="cpu",
    )  # fmt: skip


def _made(run: RunStore, indices: list[int]) -> list[Row]:
    spec = run.plan.spec
    if family_of(spec.generator) == "random":
        from packflow_core.baselines.random_rows import random_rows
        from packflow_core.stages.conformers import conformers_of

        return random_rows(
            indices,
            conformers=conformers_of(run),
            z_values=spec.z_cycle,
            seed=spec.seed,
            target=spec.name,
            params=spec.random,
            method=spec.method,
        )
    from packflow_core.stages.generate import generate

    return generate(
        indices,
        smiles=spec.smiles,
        z_values=spec.z_cycle,
        seed=spec.seed,
        target=spec.name,
        generator=spec.generator,
        params=_aimed(spec),
    )


def _aimed(spec: RunSpec) -> GenerateParams:
    """Settings of the sampler with the volume that the spec's windows ask for."""
    if spec.generate.volume_scale is not None or not (spec.density or spec.volume):
        return spec.generate
    scale = volume_scale(Molecule.from_smiles(spec.smiles), spec.density, spec.volume)
    return spec.generate.model_copy(update={"volume_scale": scale})
