"""The words and numbers of a report, the same for its HTML and its Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packflow_core import __version__
from packflow_core.analysis.export import UNSURE, format_group, format_match, format_z_prime
from packflow_core.analysis.report_context import ReportContext
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.store.rows import Row

#: Said in every report.
GENERAL_NOTES = (
    "ΔE is the relative lattice energy: the energy of the relaxed crystal per molecule above the "
    "lowest ranked candidate of this run. E(latt) is the lattice energy: the energy of the crystal "
    "per molecule less that of the molecule alone in its lowest conformer, by the same engine.",
    "Energies are those of the engine at zero temperature, without vibrations. Observed polymorphs "
    "usually lie within a few kJ/mol of each other, which is less than the error of a force "
    "field: read the order of close structures with care.",
    "A cluster holds candidates with the same packing (30 molecules unless set otherwise, "
    "hydrogens ignored). Times found says how often the search arrived there.",
    "Space groups are found by spglib after the relaxation, which imposes no symmetry. The mark "
    f"{UNSURE} stands where the space group depends on the tolerance.",
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

_EXTRA_MATCHES = 10


def content_of(context: ReportContext) -> dict[str, Any]:
    """Everything that both forms of a report say, as text and lists of text."""
    ranked = sorted(
        (row for row in context.rows if row.get("rank") is not None),
        key=lambda row: int(row["rank"]),
    )
    distinct = [row for row in ranked if row.get("representative", True)]
    listed = _listed(distinct, ranked, context.top)
    return {
        "c": context,
        "version": __version__,
        "cards": _cards(context, ranked, distinct),
        "summary": summary_sentences(context, ranked, distinct),
        "ranked": ranked,
        "drawn": _drawn(distinct, ranked, context.n_pictures),
        "table": [table_row(row) for row in listed],
        "table_note": _table_note(len(distinct), len(ranked), context.top),
        "with_match": any(row.get("matches_reference") is not None for row in ranked),
        "with_lattice": any(row.get("lattice_energy_kJ_mol") is not None for row in ranked),
        "with_match_30": any(row.get("match_rmsd30_A") is not None for row in ranked),
        "verification": [_verified(row) for row in context.verification],
        "with_tight": any(row.get("tight_status") for row in context.verification),
        "notes": [*GENERAL_NOTES, *_engine_notes(context.engine), *context.notes],
        "provenance": _provenance(context),
    }


def summary_sentences(
    context: ReportContext, ranked: Sequence[Row], distinct: Sequence[Row]
) -> list[str]:
    """What came out, in a few sentences."""
    attempted = context.stages[0].attempted if context.stages else len(context.rows)
    if not distinct:
        return [f"None of {attempted} candidates could be relaxed and ranked."]
    many = f"{len(distinct)} distinct structures" if len(distinct) > 1 else "one structure"
    found = [
        f"Of {attempted} candidates, {len(ranked)} could be relaxed and ranked; they are {many}."
    ]
    best = distinct[0]
    lattice = best.get("lattice_energy_kJ_mol")
    energy = f", with a lattice energy of {lattice:.1f} kJ/mol" if lattice is not None else ""
    found.append(
        f"The lowest has the space group {best.get('space_group') or 'unknown'} and a density of "
        f"{best['density_g_cm3']:.3f} g/cm³{energy}."
    )
    within = sum(row["lattice_energy_rel_kJ_mol"] <= 5.0 for row in distinct[1:])
    found.append(
        f"{within or 'No'} other structure{' lies' if within == 1 else 's lie'} within 5 kJ/mol "
        "of it."
    )
    matched = [row for row in ranked if row.get("matches_reference")]
    if matched:
        first = matched[0]
        rmsd = first.get("match_rmsd_A")
        value = f" (RMSD {rmsd:.2f} Å)" if rmsd is not None else ""
        found.append(
            f"The reference was found: rank {first['rank']}, "
            f"{first['lattice_energy_rel_kJ_mol']:.2f} kJ/mol above the lowest{value}."
        )
    elif any(row.get("matches_reference") is not None for row in ranked):
        most = max(int(row.get("match_n") or 0) for row in ranked)
        found.append(f"The reference was not found; at most {most} of its 15 molecules match.")
    return found


def _listed(distinct: list[Row], ranked: list[Row], top: int) -> list[Row]:
    """The best distinct structures, and every match with the reference wherever it stands."""
    shown = distinct[:top]
    identities = {row["candidate_id"] for row in shown}
    extra = [
        r for r in ranked if r.get("matches_reference") and r["candidate_id"] not in identities
    ]
    return sorted([*shown, *extra[:_EXTRA_MATCHES]], key=lambda row: int(row["rank"]))


def _drawn(distinct: list[Row], ranked: list[Row], number: int) -> list[Row]:
    """The structures that are drawn: the best, and the best match wherever it stands."""
    shown = distinct[:number]
    match = next((row for row in ranked if row.get("matches_reference")), None)
    if number < 1 or match is None or any(match is row for row in shown):
        return shown
    return [*shown[: number - 1], match]


def table_row(row: Row) -> dict[str, Any]:
    """A line of the ranked table as text."""
    return {
        "rank": row["rank"],
        "candidate": row["candidate_id"],
        "energy": f"{row['lattice_energy_rel_kJ_mol']:.2f}",
        "lattice": number(row.get("lattice_energy_kJ_mol"), 1),
        "density": f"{row['density_g_cm3']:.3f}",
        "space_group": row.get("space_group") or "?",
        "unsure": format_group(row).endswith(UNSURE),
        "ladder": f"{row.get('space_group_tight') or '?'} at the tightest tolerance, "
        f"{row.get('space_group_loose') or '?'} at the loosest",
        "z": row.get("z") or "?",
        "z_prime": format_z_prime(row.get("z_prime")),
        "cluster": row.get("cluster") or "?",
        "found": row.get("cluster_size") or 1,
        "match": format_match(row),
        "matched": bool(row.get("matches_reference")),
        "rmsd1": number(row.get("match_rmsd1_A"), 2),
        "rmsd30": number(row.get("match_rmsd30_A"), 2),
        "density_change": number(row.get("match_density_percent"), 1, sign=True),
    }


def number(value: float | None, decimals: int, sign: bool = False) -> str:
    """A number as text, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:{'+' if sign else ''}.{decimals}f}"


def _verified(row: Row) -> dict[str, Any]:
    best, worst = row.get("rank_best"), row.get("rank_worst")
    return {
        "rank": row.get("rank"),
        "candidate": row["candidate_id"],
        "energy": number(row.get("lattice_energy_rel_kJ_mol"), 2),
        "spread": number(row.get("energy_spread_kJ_mol"), 2),
        "ranks": "–" if best is None else f"{best}" if best == worst else f"{best} to {worst}",
        "tight": row.get("tight_status") or "–",
        "change": number(row.get("tight_change_kJ_mol"), 2, sign=True),
        "volume": number(row.get("tight_volume_change_percent"), 1, sign=True),
        "problem": row.get("energy_problem") or row.get("tight_problem") or "",
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
        lattice = distinct[0].get("lattice_energy_kJ_mol")
        if lattice is not None:
            label = "kJ/mol, lowest lattice energy"
            cards.append({"value": f"{lattice:.1f}", "label": label, "good": False})
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
        cards.append({"value": duration(context.wall_s), "label": "wall time", "good": False})
    return cards


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


def molecule_of(smiles: str) -> Molecule | None:
    """The molecule; None where the SMILES cannot be read."""
    try:
        return Molecule.from_smiles(smiles)
    except UserInputError:
        return None


def seconds(value: float | None) -> str:
    """Seconds as a number of sensible length."""
    return "–" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.1f}"


def duration(value: float | None) -> str:
    """A time in words: ``4.2 s``, ``8 min 32 s``, ``2 h 5 min``."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
