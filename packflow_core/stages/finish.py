"""The end of a run: order the analysed candidates and write what the user came for.

Everything here is made from the stage tables alone, quickly, and may be made again at any time.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.devices import make_seats
from packflow_core.errors import RunFailedError
from packflow_core.stages.functions import run_rank
from packflow_core.stages.pools import pool
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.store.atomic import atomic_path, storage_errors
from packflow_core.store.journal import rows_to_batch
from packflow_core.store.rows import Row
from packflow_core.store.schema import stage_schema

RANKED = "ranked.parquet"
RANKED_CSV = "ranked.csv"
REPORT = "report.html"
LANDSCAPE = "landscape.png"
STRUCTURES = "structures"

_BEST = (
    "rank", "candidate_id", "lattice_energy_rel_kJ_mol", "density_g_cm3", "space_group", "z",
    "z_prime", "cluster_size", "match_rmsd_A", "match_n", "matches_reference",
)  # fmt: skip
_RANK_TIMEOUT_S = 4 * 3600.0


@dataclass(frozen=True)
class Summary:
    """What a run came to, in plain types.

    Attributes:
        target, campaign, method, smiles: what was predicted and how.
        folder: absolute path of the run folder.
        n: candidates of the run.
        n_ranked: candidates that reached the ranking.
        n_distinct: clusters among them.
        reference_rank: rank of the best candidate that matches the reference; None without.
        best: the best distinct structures, at most ten.
        stages: counts of each stage, see `StageLedger.as_dict`, with the identity of what did
            the work.
        files: result files by name.
        peak_memory_mb: largest resident size of this process, and of its largest child, MB.
    """

    target: str
    campaign: str
    method: str
    smiles: str
    folder: str
    n: int
    n_ranked: int
    n_distinct: int
    reference_rank: int | None
    best: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    files: dict[str, str]
    peak_memory_mb: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def stage_seconds(self) -> dict[str, float]:
        """Working seconds of all attempts, by stage."""
        return {stage["stage"]: stage["wall_s"] for stage in self.stages}


def write_results(run_folder: str | Path, workers: int | None) -> Summary:
    """Rank the analysed candidates and write table, structures, picture and report.

    Args:
        run_folder: the run's folder.
        workers: size of the process's worker pool, None for one per processor; the ranking runs
            in one of its workers, where a crash of a library costs an error, not the run.

    Raises:
        RunFailedError: the ranking broke.
        StorageFullError: no space left.
    """
    run = RunStore(Path(run_folder))
    rows = _ranked(run, workers)
    table = pa.Table.from_batches([rows_to_batch(rows, stage_schema("rank"))])
    with storage_errors(run.folder), atomic_path(run.folder / RANKED) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return write_files(run, rows)


def write_files(run: RunStore, rows: list[Row]) -> Summary:
    """Write what is derived from the ranked table: CSV, CIFs, landscape, report.

    Args:
        run: the run.
        rows: of `ranked.parquet`.
    """
    from packflow_core.analysis.export import write_ranked_csv, write_structures
    from packflow_core.stages.present import write_landscape, write_run_report

    folder = run.folder
    with storage_errors(folder):
        with atomic_path(folder / RANKED_CSV) as temporary:
            write_ranked_csv(rows, temporary)
        write_structures(rows, folder / STRUCTURES)
        with atomic_path(folder / LANDSCAPE) as temporary:
            write_landscape(run, rows, temporary)
        summary = summarise(run, rows)
        with atomic_path(folder / REPORT) as temporary:
            write_run_report(run, rows, temporary)
    return summary


def read_ranked(folder: Path) -> list[Row]:
    """Rows of `ranked.parquet`, best first; empty where the run did not come so far."""
    path = folder / RANKED
    if not path.is_file():
        return []
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise RunFailedError(
            f"{path} is damaged; write it again with 'csp report {folder}'."
        ) from error
    return rows


def summarise(run: RunStore, rows: list[Row]) -> Summary:
    """Summary of a run from its ranked rows and its ledger."""
    spec = run.plan.spec
    ranked = [row for row in rows if row.get("rank") is not None]
    distinct = [row for row in ranked if row.get("representative")]
    matching = [int(row["rank"]) for row in ranked if row.get("matches_reference")]
    paths = {
        "ranked": RANKED, "table": RANKED_CSV, "report": REPORT, "landscape": LANDSCAPE,
        "structures": STRUCTURES,
    }  # fmt: skip
    return Summary(
        target=spec.name,
        campaign=spec.campaign,
        method=spec.method,
        smiles=spec.smiles,
        folder=str(run.folder.resolve()),
        n=spec.n,
        n_ranked=len(ranked),
        n_distinct=len(distinct),
        reference_rank=min(matching, default=None),
        best=[{name: row.get(name) for name in _BEST} for row in distinct[:10]],
        stages=[
            {**stage.as_dict(), "identity": run.plan.stages[stage.stage].identity}
            for stage in run.ledger()
        ],
        files={name: str((run.folder / file).resolve()) for name, file in paths.items()},
        peak_memory_mb=peak_memory_mb(),
    )


def peak_memory_mb() -> dict[str, float]:
    """Largest resident size so far of this process, and of its largest ended child, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kB elsewhere
    return {
        name: round(resource.getrusage(who).ru_maxrss * unit / 1e6, 1)
        for name, who in (("self", resource.RUSAGE_SELF), ("child", resource.RUSAGE_CHILDREN))
    }


def _ranked(run: RunStore, workers: int | None) -> list[Row]:
    rows = run.stage("rank").rows()
    if not rows:
        return []
    items = [(0, (rows, run.plan.spec.rank))]
    seats = make_seats(workers, "cpu", gpu=False)
    for outcome in pool(seats, run.folder / LOG).map(run_rank, items, _RANK_TIMEOUT_S):
        if outcome.error is None:
            ranked: list[Row] = outcome.value
            return ranked
        raise RunFailedError(
            f"The ranking of {len(rows)} candidates broke ({outcome.error}: {outcome.detail}); "
            f"the analysed candidates are in {run.stage('rank').folder}."
        )
    raise RunFailedError("The ranking gave no result.")
