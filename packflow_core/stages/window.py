"""Who is worth a refinement: the energy window between two relaxation stages.

A refinement takes the candidates that ended `ok` in the stage before and whose energy per
molecule there lies at most `window_kJ_mol` above the lowest of them. The others get a row, too:
rejected, with the reason `window`.
"""

from __future__ import annotations

import logging

import numpy as np

from packflow_core.analysis.ranking import EV_TO_KJ_MOL
from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import next_row
from packflow_core.store.schema import Reason, Status

logger = logging.getLogger(__name__)


def reject_outside_window(run: RunStore, stage: str) -> int:
    """Write the rows of the candidates that a refinement leaves out, as one part, all or none.

    A candidate that has a row is left alone, so the call may be repeated, also after a kill, and
    changes nothing then. When the run grows later, its minimum may sink; rows that are there
    stay, and the new minimum counts for the candidates that come now.

    Args:
        run: held by this process.
        stage: name of the stage; one that is no refinement has no window.

    Returns:
        Number of rows written.

    Raises:
        ValueError: the stage before is not complete, so its minimum is not known.
        StorageFullError: no space left; nothing was written.
    """
    refinement = run.plan.spec.refinements.get(stage)
    upstream = run.plan.upstream_of(stage)
    if refinement is None or upstream is None:
        return 0
    if run.pending(upstream):
        raise ValueError(f"stage {upstream} is not complete, so {stage} has no window yet")
    table = run.stage(upstream).table(("index", "status", "energy_eV", "z"))
    ok = np.array([status == Status.OK for status in table.column("status").to_pylist()], bool)
    index = table.column("index").to_numpy()[ok]
    energy = table.column("energy_eV").to_numpy()[ok] / table.column("z").to_numpy()[ok]
    finite = energy[np.isfinite(energy)]
    if not len(finite):
        return 0
    above = (energy - finite.min()) * EV_TO_KJ_MOL
    excess = dict(zip(index.tolist(), above.tolist(), strict=True))
    recorded = run.attempts(stage)
    # An energy that is not a number lies in no window; the refinement will say what is wrong.
    left_out = {
        i: value
        for i, value in excess.items()
        if value > refinement.window_kJ_mol and i not in recorded
    }
    rows = []
    for previous in run.stage(upstream).rows(left_out):
        value = left_out[int(previous["index"])]
        detail = f"{value:.1f} kJ/mol above the minimum, window {refinement.window_kJ_mol:g}"
        row = next_row(
            previous, status=Status.REJECTED, reason=Reason.WINDOW, detail=detail, device="cpu"
        )
        row.update(stage_key=run.plan.key(stage), attempt=1, wall_s=None)
        rows.append(row)
    run.stage(stage).write_part(rows)
    if rows:
        logger.info(
            "stage %s: %d of %d candidates lie outside the window of %g kJ/mol",
            stage, len(rows), len(index), refinement.window_kJ_mol,
        )  # fmt: skip
    return len(rows)
