"""The ranked result as files and as a terminal table."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packflow_core.store.rows import Row, crystal_of

if TYPE_CHECKING:
    from rich.table import Table

#: Columns of `ranked.csv` and their decimals (None: text or whole number).
CSV_COLUMNS: dict[str, int | None] = {
    "rank": None,
    "candidate_id": None,
    "lattice_energy_rel_kJ_mol": 3,
    "density_g_cm3": 4,
    "space_group": None,
    "space_group_number": None,
    "z": None,
    "z_prime": 3,
    "cluster": None,
    "cluster_size": None,
    "representative": None,
    "match_rmsd_A": 3,
    "match_n": None,
    "matches_reference": None,
    "energy_eV": 6,
    "energy_per_molecule_eV": 6,
    "volume_A3": 3,
    "fmax_eV_A": 4,
    "stress_GPa": 4,
    "n_steps": None,
    "bonds_ok": 3,
    "max_bond_error_A": 3,
    "status": None,
    "reason": None,
    "detail": None,
    "engine": None,
}


def write_ranked_csv(rows: Sequence[Row], path: str | Path) -> Path:
    """Write all rows of the rank stage, in their order, with units in the column names.

    Missing values are empty fields. The Parquet table beside it keeps full precision and the
    structures.
    """
    out = Path(path)
    with out.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for row in rows:
            writer.writerow([_cell(row.get(name), CSV_COLUMNS[name]) for name in CSV_COLUMNS])
    return out


def write_structures(
    rows: Sequence[Row],
    folder: str | Path,
    *,
    top: int = 100,
    representatives_only: bool = True,
) -> list[Path]:
    """Write the best structures as CIF, named ``001_<candidate_id>.cif`` by their rank.

    CIFs of an earlier call in the same folder are removed, so that it never mixes two rankings.

    Args:
        rows: of the rank stage.
        folder: made where missing.
        top: at most this many files.
        representatives_only: leave duplicates out.

    Returns:
        The paths, best first.
    """
    from packflow_core.crystal.cif import write_cif

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.cif"):
        if re.match(r"\d{3,}_", old.name):
            old.unlink()
    ranked = sorted((r for r in rows if r.get("rank") is not None), key=lambda r: int(r["rank"]))
    if representatives_only:
        ranked = [row for row in ranked if row.get("representative", True)]
    paths = []
    for row in ranked[:top]:
        name = f"{int(row['rank']):03d}_{_safe(str(row['candidate_id']))}"
        path = target / f"{name}.cif"
        write_cif(crystal_of(row), path, name, _comments(row))
        paths.append(path)
    return paths


def ranked_table(rows: Sequence[Row], *, top: int = 20, title: str = "") -> Table:
    """Table of the best distinct structures for a terminal of 100 columns.

    Args:
        rows: of the rank stage.
        top: at most this many lines.
        title: above the table.
    """
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    ranked = [row for row in rows if row.get("rank") is not None]
    shown = [row for row in ranked if row.get("representative", True)]
    table = Table(title=escape(title) or None, title_justify="left", header_style="bold")
    table.add_column("rank", justify="right")
    table.add_column("candidate", overflow="ellipsis", no_wrap=True, max_width=28)
    table.add_column("ΔE\nkJ/mol", justify="right")
    table.add_column("density\ng/cm³", justify="right")
    table.add_column("space\ngroup", no_wrap=True)
    table.add_column("Z", justify="right")
    table.add_column("Z'", justify="right")
    table.add_column("times\nfound", justify="right")
    with_match = any(row.get("matches_reference") is not None for row in ranked)
    if with_match:
        table.add_column("match\nRMSD / Å", justify="right", no_wrap=True)
    for row in shown[:top]:
        cells = [
            str(row["rank"]),
            str(row["candidate_id"]),
            _cell(row.get("lattice_energy_rel_kJ_mol"), 2),
            _cell(row.get("density_g_cm3"), 3),
            str(row.get("space_group") or "?"),
            str(row.get("z") or "?"),
            format_z_prime(row.get("z_prime")),
            str(row.get("cluster_size") or 1),
        ]
        if with_match:
            cells.append(format_match(row))
        style = "bold green" if row.get("matches_reference") else None
        # Text, not markup: an identity with brackets must not be read as a style.
        table.add_row(*[Text(cell) for cell in cells], style=style)
    hidden = len(shown) - len(shown[:top])
    duplicates = len(ranked) - len(shown)
    notes = [f"{hidden} more distinct structures"] if hidden > 0 else []
    notes += [f"{duplicates} duplicates not listed"] if duplicates else []
    if not ranked:
        notes = ["no candidate could be ranked"]
    if notes:
        table.caption = "; ".join(notes)
        table.caption_justify = "left"
    return table


def format_match(row: Row) -> str:
    """The match of a row in a few characters: ``yes 0.21``, ``11 mol.``, ``no``, or a dash."""
    if row.get("matches_reference") is None:
        return "–"
    rmsd, n = row.get("match_rmsd_A"), row.get("match_n")
    if row["matches_reference"]:
        return f"yes {rmsd:.2f}" if rmsd is not None else "yes"
    return f"{n} mol." if n else "no"


def format_z_prime(value: float | None) -> str:
    """Z' without needless decimals: ``1``, ``0.5``, ``?`` where unknown."""
    return "?" if value is None else f"{value:g}" if value >= 0.01 else f"{value:.3f}"


def _cell(value: Any, decimals: int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if decimals is not None:
        return f"{float(value):.{decimals}f}"
    return str(value)


def _safe(name: str) -> str:
    """A candidate's identity as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name)[:80]


def _comments(row: Row) -> dict[str, str]:
    """What a CIF says about its structure."""
    items = {
        "candidate": str(row["candidate_id"]),
        "rank": str(row["rank"]),
        "relative lattice energy / kJ mol-1": _cell(row.get("lattice_energy_rel_kJ_mol"), 3),
        "density / g cm-3": _cell(row.get("density_g_cm3"), 4),
        "space group found": str(row.get("space_group") or "unknown"),
        "engine": str(row.get("engine") or "unknown"),
    }
    return {key: value for key, value in items.items() if value}
