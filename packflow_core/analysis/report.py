"""The report of a run: one HTML file that needs nothing else, not even a network.

It takes plain data (rows, numbers, strings), so it can be written from a finished run, from a
store, or from a test. Everything that comes from outside is escaped by the template engine; the
only markup that is inserted as it stands are the pictures this package draws itself.
"""

from __future__ import annotations

import base64
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from packflow_core import __version__
from packflow_core.analysis.export import format_match, format_z_prime
from packflow_core.analysis.landscape import (
    DEFAULT_WINDOW_KJ_MOL,
    LandscapeOptions,
    Theme,
    landscape_bytes,
)
from packflow_core.analysis.pictures import molecule_svg, packing_svg
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.store.rows import Row, crystal_of
from packflow_core.store.schema import Status

if TYPE_CHECKING:
    from jinja2 import Environment

logger = logging.getLogger(__name__)

#: Said in every report.
GENERAL_NOTES = (
    "ΔE is the relative lattice energy: the energy of the relaxed crystal per molecule above the "
    "lowest ranked candidate of this run. It says how candidates compare, not how strongly the "
    "crystal is bound.",
    "Energies are those of the engine at zero temperature, without vibrations. Observed polymorphs "
    "usually lie within a few kJ/mol of each other, which is less than the error of a force "
    "field: read the order of close structures with care.",
    "A cluster holds candidates with the same packing (15 molecules, hydrogens ignored). Times "
    "found says how often the search arrived there.",
    "Space groups are found by spglib after the relaxation, which imposes no symmetry.",
)

#: Said for the engine whose identity begins with the key; measured values.
ENGINE_NOTES: dict[str, tuple[str, ...]] = {
    "gfnff": (
        "mcGFN-FF is a force field fitted to molecular crystals. Its lattice energies of urea and "
        "benzene (-106 and -51 kJ/mol) lie within 5 kJ/mol of the reference values; its cell "
        "volumes differ more (1.006 and 0.920 of the experimental one), so densities may come "
        "out too high.",
        "For a second opinion, re-score the best structures with another engine.",
    ),
}


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
        notes: sentences to add to the explanation of the numbers.
        top: lines of the ranked table.
        n_pictures: packing pictures.
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
    notes: Sequence[str] = ()
    top: int = 50
    n_pictures: int = 3
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


def write_report(path: str | Path, context: ReportContext) -> Path:
    """Write the report to `path` and return it."""
    out = Path(path)
    out.write_text(render_report(context), encoding="utf-8")
    return out


def render_report(context: ReportContext) -> str:
    """The report as HTML text."""
    from markupsafe import Markup

    ranked = [row for row in context.rows if row.get("rank") is not None]
    distinct = [row for row in ranked if row.get("representative", True)]
    molecule = _molecule(context.smiles)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            c=context,
            version=__version__,
            formula=_formula_parts(molecule.formula) if molecule else [],
            # Drawn by this package from numbers alone, hence safe to insert as they are.
            molecule_svg=Markup(molecule_svg(molecule)) if molecule else "",
            pictures=_pictures(distinct[: context.n_pictures]),
            cards=_cards(context, ranked, distinct),
            table=[_table_row(row) for row in _listed(distinct, ranked, context.top)],
            table_note=_table_note(len(distinct), len(ranked), context.top),
            with_match=any(row.get("matches_reference") is not None for row in ranked),
            landscape_light=_landscape(context, "light", len(ranked)),
            landscape_dark=_landscape(context, "dark", len(ranked)),
            notes=[*GENERAL_NOTES, *_engine_notes(context.engine), *context.notes],
            provenance=_provenance(context),
        )
    )


def _listed(distinct: list[Row], ranked: list[Row], top: int) -> list[Row]:
    """The best distinct structures, and every match with the reference wherever it stands."""
    shown = distinct[:top]
    identities = {row["candidate_id"] for row in shown}
    extra = [
        r for r in ranked if r.get("matches_reference") and r["candidate_id"] not in identities
    ]
    return sorted([*shown, *extra[:10]], key=lambda row: int(row["rank"]))


def _table_row(row: Row) -> dict[str, Any]:
    return {
        "rank": row["rank"],
        "candidate": row["candidate_id"],
        "energy": f"{row['lattice_energy_rel_kJ_mol']:.2f}",
        "density": f"{row['density_g_cm3']:.3f}",
        "space_group": row.get("space_group") or "?",
        "z": row.get("z") or "?",
        "z_prime": format_z_prime(row.get("z_prime")),
        "cluster": row.get("cluster") or "?",
        "found": row.get("cluster_size") or 1,
        "match": format_match(row),
        "matched": bool(row.get("matches_reference")),
    }


def _table_note(n_distinct: int, n_ranked: int, top: int) -> str:
    shown = f"The best {top} of " if n_distinct > top else ""
    text = f"{shown}{n_distinct} distinct structure{'s' if n_distinct != 1 else ''}"
    duplicates = n_ranked - n_distinct
    if duplicates:
        text += f"; {duplicates} duplicate{'s' if duplicates != 1 else ''} not listed"
    return text[0].upper() + text[1:] + ". All of them are in ranked.csv and ranked.parquet."


def _cards(
    context: ReportContext, ranked: list[Row], distinct: list[Row]
) -> list[dict[str, str | bool]]:
    attempted = context.stages[0].attempted if context.stages else len(context.rows)
    cards: list[dict[str, str | bool]] = [
        {"value": str(attempted), "label": "candidates attempted", "good": False},
        {"value": str(len(ranked)), "label": "relaxed and ranked", "good": False},
        {"value": str(len(distinct)), "label": "distinct structures", "good": False},
    ]
    if distinct:
        density = f"{distinct[0]['density_g_cm3']:.3f}"
        cards.append({"value": density, "label": "g/cm³, lowest structure", "good": False})
    matched = [row for row in ranked if row.get("matches_reference")]
    if matched:
        best = min(matched, key=lambda row: int(row["rank"]))
        label = f"rank of the match, {best['lattice_energy_rel_kJ_mol']:.2f} kJ/mol"
        cards.append({"value": str(best["rank"]), "label": label, "good": True})
    elif any(row.get("matches_reference") is not None for row in ranked):
        cards.append({"value": "none", "label": "matches the reference", "good": False})
    if context.wall_s is not None:
        cards.append({"value": _duration(context.wall_s), "label": "wall time", "good": False})
    return cards


def _pictures(rows: list[Row]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    pictures = []
    for row in rows:
        try:
            svg = packing_svg(crystal_of(row))
        except ValueError as error:  # a report without a picture is better than no report
            logger.warning("no packing picture of %s: %s", row.get("candidate_id"), error)
            continue
        pictures.append({**_table_row(row), "svg": Markup(svg)})
    return pictures


def _landscape(context: ReportContext, theme: Theme, n_ranked: int) -> str:
    options = LandscapeOptions(
        title=context.target,
        subtitle=", ".join(
            part for part in (context.engine, context.generator, f"{n_ranked} ranked") if part
        ),
        reference_density=context.reference_density,
        reference_label=context.reference_label or "reference",
        window_kJ_mol=context.window_kJ_mol,
        theme=theme,
    )
    return base64.b64encode(landscape_bytes(context.rows, options)).decode("ascii")


def _engine_notes(engine: str) -> tuple[str, ...]:
    for name, notes in ENGINE_NOTES.items():
        if engine.startswith(name):
            return notes
    return ()


def _provenance(context: ReportContext) -> list[tuple[str, str]]:
    facts = [("packflow-csp", __version__)]
    facts += [(f"version of {name}", version) for name, version in context.versions.items()]
    if context.checkpoint_hash:
        facts.append(("checkpoint SHA-256", context.checkpoint_hash))
    return facts + [(str(key), str(value)) for key, value in context.provenance.items()]


def _molecule(smiles: str) -> Molecule | None:
    try:
        return Molecule.from_smiles(smiles)
    except UserInputError:
        return None


def _formula_parts(formula: str) -> list[tuple[str, str]]:
    """Hill formula as (symbol, count) for subscripts."""
    return re.findall(r"([A-Z][a-z]?)(\d*)", formula)


def _hm(symbol: str) -> Any:
    """Hermann-Mauguin symbol as HTML: ``P2_1/c`` with an index, ``P-1`` with a bar."""
    from markupsafe import Markup, escape

    text = str(escape(symbol))
    text = re.sub(r"-(\d)", '<span style="text-decoration: overline">\\1</span>', text)
    return Markup(re.sub(r"_(\d)", r"<sub>\1</sub>", text))


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.1f}"


def _duration(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("packflow_core.analysis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(hm=_hm, seconds=_seconds, duration=_duration)
    return environment
