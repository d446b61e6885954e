"""The end of a run: order the analysed candidates and write what the user came for.

Everything here is made from the stage tables alone, quickly, and may be made again at any time.
"""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.analysis.completeness import SearchCompleteness, search_completeness
from packflow_core.devices import make_seats
from packflow_core.engines.registry import engine_traits
from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.spec import engine_of
from packflow_core.stages.functions import run_rank
from packflow_core.stages.pools import pool
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.store.atomic import atomic_path, storage_errors
from packflow_core.store.journal import rows_to_batch
from packflow_core.store.rows import Row
from packflow_core.store.schema import stage_schema

if TYPE_CHECKING:
    from packflow_core.trust.gas_phase import GasPhase
    from packflow_core.workers import WorkerPool

logger = logging.getLogger(__name__)

RANKED = "ranked.parquet"
RANKED_CSV = "ranked.csv"
REPORT = "report.html"
REPORT_MARKDOWN = "report.md"
LANDSCAPE = "landscape.png"
STRUCTURES = "structures"

_BEST = (
    "rank", "candidate_id", "lattice_energy_rel_kJ_mol", "lattice_energy_kJ_mol", "density_g_cm3",
    "space_group", "z", "z_prime", "cluster_size", "match_rmsd_A", "match_n", "matches_reference",
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
        gas_phase: the reference of the lattice energies, see `trust.gas_phase.GasPhase`, without
            its geometry.
        completeness: see `analysis.completeness.SearchCompleteness`.
        trust: sentences: where the energies count from, what `csp verify` and `csp free-energy`
            found, and whether the search is complete.
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
    gas_phase: dict[str, Any] = field(default_factory=dict)
    completeness: dict[str, Any] = field(default_factory=dict)
    trust: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def stage_seconds(self) -> dict[str, float]:
        """Working seconds of all attempts, by stage."""
        return {stage["stage"]: stage["wall_s"] for stage in self.stages}


def write_results(
    run_folder: str | Path, workers: int | None, device: str = "auto", compute: bool = True
) -> Summary:
    """Rank the analysed candidates and write table, structures, picture and report.

    Args:
        run_folder: the run's folder; its lock is held by whoever calls this.
        workers: size of the process's worker pool, None for one per processor; the ranking runs
            in one of its workers, where a crash of a library costs an error, not the run.
        device: where the engine computes that can use a GPU.
        compute: let the engine compute what is missing: the gas-phase molecule and, where that
            is cheap, the best structures in other cells. Neither can make a run fail.

    Raises:
        RunFailedError: the ranking broke.
        StorageFullError: no space left.
    """
    from packflow_core.trust.lattice_energy import with_lattice_energies, with_reference
    from packflow_core.trust.run_gas_phase import reference_of

    run = RunStore(Path(run_folder))
    rows = _ranked(run, workers)
    engine_workers = _engine_workers(run, workers, device) if compute and rows else None
    gas = reference_of(run, engine_workers)
    rows = with_lattice_energies(rows, gas)
    schema = with_reference(stage_schema("rank"), gas)
    table = pa.Table.from_batches([rows_to_batch(rows, schema)])
    with storage_errors(run.folder), atomic_path(run.folder / RANKED) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    if engine_workers is not None:
        _guard(run, rows, engine_workers)
    return write_files(run, rows)


def _engine_workers(run: RunStore, workers: int | None, device: str) -> Callable[[], WorkerPool]:
    """Gives the pool of the engine whose energies are ranked, when it is needed."""
    traits = engine_traits(engine_of(run.plan.spec, run.plan.last_relaxation))
    where = device if traits.gpu else "cpu"
    return lambda: pool(make_seats(workers, where, gpu=traits.gpu), run.folder / LOG)


def _guard(run: RunStore, rows: list[Row], workers: Callable[[], WorkerPool]) -> None:
    """Look at the best structures in other cells, unless that is dear or was done before."""
    from packflow_core.trust.run_verify import (
        TOP_BY_ITSELF,
        best_distinct,
        is_cheap,
        read_verification,
        verify_run,
    )

    best = best_distinct(rows, TOP_BY_ITSELF)
    before = read_verification(run.folder, rows)
    if before is not None and before.rows and (before.tight or len(before.rows) >= len(best)):
        return
    if not is_cheap(run, best):
        logger.info("looking at the energies in other cells is left to 'csp verify'")
        return
    try:
        verify_run(run, rows, workers, len(best), relax=False)
    except UserInputError as error:  # the engine cannot be used here: the run is none the worse
        logger.info("the energies were not looked at in other cells: %s", error)


def write_files(run: RunStore, rows: list[Row]) -> Summary:
    """Write what is derived from the ranked table: CSV, CIFs, landscape, report.

    Args:
        run: the run.
        rows: of `ranked.parquet`.
    """
    from packflow_core.analysis.export import write_ranked_csv, write_structures
    from packflow_core.stages.present import write_landscape

    folder = run.folder
    with storage_errors(folder):
        with atomic_path(folder / RANKED_CSV) as temporary:
            write_ranked_csv(rows, temporary)
        write_structures(rows, folder / STRUCTURES)
        with atomic_path(folder / LANDSCAPE) as temporary:
            write_landscape(run, rows, temporary)
        summary = summarise(run, rows)
    write_report_again(run, rows)
    return summary


def write_report_again(run: RunStore, rows: list[Row]) -> None:
    """Write the report as HTML and Markdown; it tells what the guards found, too.

    Args:
        run: the run.
        rows: of `ranked.parquet`.
    """
    from packflow_core.stages.present import write_run_report

    with (
        storage_errors(run.folder),
        atomic_path(run.folder / REPORT) as page,
        atomic_path(run.folder / REPORT_MARKDOWN) as twin,
    ):
        write_run_report(run, rows, page, twin)


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
    from packflow_core.trust.run_gas_phase import reference_of

    spec = run.plan.spec
    gas, completeness = reference_of(run, None), search_completeness(rows)
    ranked = [row for row in rows if row.get("rank") is not None]
    distinct = [row for row in ranked if row.get("representative")]
    matching = [int(row["rank"]) for row in ranked if row.get("matches_reference")]
    paths = {
        "ranked": RANKED, "table": RANKED_CSV, "report": REPORT,
        "markdown": REPORT_MARKDOWN, "landscape": LANDSCAPE, "structures": STRUCTURES,
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
        gas_phase=_reference(gas),
        completeness=completeness.as_dict(),
        trust=tuple(trust_sentences(run, rows, gas, completeness)),
    )


def trust_sentences(
    run: RunStore,
    rows: list[Row],
    gas: GasPhase | None = None,
    completeness: SearchCompleteness | None = None,
) -> list[str]:
    """How far the ranking can be trusted, in sentences.

    The reference of the energies, what the guards found, the free energies, and whether the
    search is complete.

    Args:
        run: the run.
        rows: of `ranked.parquet`.
        gas: the reference, where it was read before.
        completeness: of `rows`, where it is known.
    """
    from packflow_core.trust.lattice_energy import LATTICE_ENERGY, describe_reference
    from packflow_core.trust.run_free_energy import read_free_energies
    from packflow_core.trust.run_gas_phase import reference_of
    from packflow_core.trust.run_verify import read_verification

    found = [describe_reference(gas if gas is not None else reference_of(run, None))]
    bound = [row[LATTICE_ENERGY] for row in rows if row.get(LATTICE_ENERGY) is not None]
    if bound:
        found.append(f"The lowest crystal has a lattice energy of {min(bound):.1f} kJ/mol.")
    verification = read_verification(run.folder, rows)
    if verification is not None:
        found += verification.findings
    elif any(row.get("rank") is not None for row in rows):
        found.append("Energies were not looked at in other cells; 'csp verify' does that.")
    free = read_free_energies(run.folder, rows)
    found += free.findings if free else ()
    return [*found, (completeness or search_completeness(rows)).advice]


def _reference(gas: GasPhase) -> dict[str, Any]:
    left_out = ("numbers", "positions", "conformer_energies_kJ_mol")
    return {name: value for name, value in gas.as_dict().items() if name not in left_out}


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
