"""What a report shows of a run, as plain data, and the counts that it is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from packflow_core.analysis.landscape import DEFAULT_WINDOW_KJ_MOL
from packflow_core.store.rows import Row
from packflow_core.store.schema import Status


@dataclass(frozen=True)
class StageSummary:
    """The funnel and the times of one stage.

    Attributes:
        name: of the stage.
        attempted, ok, unconverged, rejected, failed: numbers of candidates.
        median_s, max_s, total_s: wall-clock seconds per candidate, of the slowest, and of all
            together; None where not recorded.
    """

    name: str
    attempted: int
    ok: int
    unconverged: int
    rejected: int
    failed: int
    median_s: float | None = None
    max_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True)
class FailureGroup:
    """Candidates of one stage that stopped for the same reason.

    Attributes:
        stage: name of the stage.
        status: rejected, failed or unconverged.
        reason: of the schema.
        count: candidates.
        example_id: one of them, the first by index.
        example_detail: its detail.
    """

    stage: str
    status: str
    reason: str
    count: int
    example_id: str
    example_detail: str = ""


@dataclass(frozen=True)
class ReportContext:
    """Everything a report shows.

    Attributes:
        target: name of the target.
        smiles: of the molecule.
        rows: of the rank stage, with their crystals.
        stages: in the order they ran; see `summarise_stage`.
        failures: see `group_failures`.
        campaign: name of the campaign, if any.
        z: molecules per cell that were sampled.
        generator: name of the generator or path of its checkpoint.
        checkpoint_hash: SHA-256 of the checkpoint.
        engine: identity of the energy engine, for example ``gfnff/mcgfnff2023 (gfnff 0.3.1)``.
        seed: campaign seed.
        reference_label: name of the reference crystal, where one was given.
        reference_density: of the reference in g/cm3.
        command: the exact command to repeat the run.
        versions: package name to version.
        provenance: further facts, for example host, run folder or stage keys.
        finished: date and time as text.
        wall_s: wall-clock seconds of the whole run.
        spec: of the run as YAML, which `csp run` takes.
        trust: sentences: how far the order of the structures can be trusted.
        verification: rows of `csp verify`, see `trust.verify_table.VERIFY_SCHEMA`.
        pxrd: rows of `csp pxrd`, see `analysis.pxrd_table.SCHEMA`.
        notes: sentences to add to the explanation of the numbers.
        top: lines of the ranked table.
        n_pictures: structures that are drawn.
        window_kJ_mol: highest energy in the landscape.
    """

    target: str
    smiles: str
    rows: Sequence[Row] = ()
    stages: Sequence[StageSummary] = ()
    failures: Sequence[FailureGroup] = ()
    campaign: str = ""
    z: Sequence[int] = ()
    generator: str = ""
    checkpoint_hash: str = ""
    engine: str = ""
    seed: int | None = None
    reference_label: str = ""
    reference_density: float | None = None
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    finished: str = ""
    wall_s: float | None = None
    spec: str = ""
    trust: Sequence[str] = ()
    verification: Sequence[Row] = ()
    pxrd: Sequence[Row] = ()
    notes: Sequence[str] = ()
    top: int = 50
    n_pictures: int = 6
    window_kJ_mol: float = DEFAULT_WINDOW_KJ_MOL


def summarise_stage(name: str, rows: Sequence[Row]) -> StageSummary:
    """Count the rows of a stage by status and add up their times."""
    status = [str(row["status"]) for row in rows]
    times = [float(row["wall_s"]) for row in rows if row.get("wall_s") is not None]
    return StageSummary(
        name=name,
        attempted=len(rows),
        ok=status.count(Status.OK),
        unconverged=status.count(Status.UNCONVERGED),
        rejected=status.count(Status.REJECTED),
        failed=status.count(Status.FAILED),
        median_s=median(times) if times else None,
        max_s=max(times) if times else None,
        total_s=sum(times) if times else None,
    )


def group_failures(stage: str, rows: Sequence[Row]) -> list[FailureGroup]:
    """Group the rows of a stage that are not ok by status and reason, the largest group first."""
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] != Status.OK:
            groups[(str(row["status"]), str(row.get("reason") or ""))].append(row)
    found = []
    for (status, reason), members in groups.items():
        example = min(members, key=lambda r: (r.get("index") or 0, str(r["candidate_id"])))
        found.append(
            FailureGroup(
                stage=stage,
                status=status,
                reason=reason,
                count=len(members),
                example_id=str(example["candidate_id"]),
                example_detail=str(example.get("detail") or ""),
            )
        )
    return sorted(found, key=lambda group: (-group.count, group.status, group.reason))
