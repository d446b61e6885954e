"""The ranked result as files and as a terminal table."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from packflow_core.crystal.cif import crystal_to_cif_text
from packflow_core.store.atomic import write_bytes
from packflow_core.store.rows import Row, crystal_of
from packflow_core.store.schema import STAGE_COLUMNS

if TYPE_CHECKING:
    from rich.table import Table

#: Longest identity of a candidate in the terminal's table.
_NAME_WIDTH = 24
#: Behind a space group that depends on the tolerance.
UNSURE = "~"

#: Columns of `ranked.csv` and their decimals (None: text or whole number).
CSV_COLUMNS: dict[str, int | None] = {
    "rank": None,
    "candidate_id": None,
    "lattice_energy_rel_kJ_mol": 3,
    "lattice_energy_kJ_mol": 3,
    "density_g_cm3": 4,
    "space_group": None,
    "space_group_number": None,
    "z": None,
    "z_prime": 3,
    "space_group_tight": None,
    "space_group_loose": None,
    "space_group_agreement": 2,
    "symprec_A": None,
    "cluster": None,
    "cluster_size": None,
    "representative": None,
    "match_rmsd_A": 3,
    "match_n": None,
    "matches_reference": None,
    "energy_eV": 6,
    "energy_per_molecule_eV": 6,
    "volume_A3": 3,
    "density_ratio": 3,
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
    columns = csv_columns()
    out = Path(path)
    with out.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(name), columns[name]) for name in columns])
    return out


def csv_columns() -> dict[str, int | None]:
    """Columns of `ranked.csv` and their decimals: `CSV_COLUMNS`, then what else a row knows.

    Lists, such as the coordinates, are in the Parquet table only.
    """
    more: dict[str, int | None] = {
        field.name: 4 if pa.types.is_floating(field.type) else None
        for field in STAGE_COLUMNS["rank"]
        if not pa.types.is_list(field.type) and field.name not in CSV_COLUMNS
    }
    return {**CSV_COLUMNS, **more}


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
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    remove_numbered(target)
    ranked = sorted((r for r in rows if r.get("rank") is not None), key=lambda r: int(r["rank"]))
    if representatives_only:
        ranked = [row for row in ranked if row.get("representative", True)]
    paths = []
    for row in ranked[:top]:
        name = structure_name(row)
        path = target / f"{name}.cif"
        text = crystal_to_cif_text(crystal_of(row), name, cif_comments(row))
        write_bytes(path, text.encode("ascii"))
        paths.append(path)
    return paths


def ranked_table(rows: Sequence[Row], *, top: int = 20, title: str = "") -> Table:
    """Table of the best distinct structures for a terminal of 100 columns.

    Args:
        rows: of the rank stage.
        top: at most this many lines.
        title: above the table.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    ranked = [row for row in rows if row.get("rank") is not None]
    shown = [row for row in ranked if row.get("representative", True)]
    table = Table(
        title=escape(title) or None, title_justify="left", header_style="bold",
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    table.add_column("rank", justify="right")
    table.add_column("candidate", overflow="ellipsis", no_wrap=True)
    table.add_column("ΔE\nkJ/mol", justify="right")
    with_lattice = any(row.get("lattice_energy_kJ_mol") is not None for row in ranked)
    if with_lattice:
        table.add_column("E(latt)\nkJ/mol", justify="right")
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
            _shortened(str(row["candidate_id"])),
            _cell(row.get("lattice_energy_rel_kJ_mol"), 2),
            *([_cell(row.get("lattice_energy_kJ_mol"), 1)] if with_lattice else []),
            _cell(row.get("density_g_cm3"), 3),
            format_group(row),
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
    notes += [f"{duplicates} duplicate{'s' * (duplicates > 1)} not listed"] if duplicates else []
    if any(format_group(row).endswith(UNSURE) for row in shown[:top]):
        notes.append(f"{UNSURE} the space group depends on the tolerance")
    if not ranked:
        notes = ["no candidate could be ranked"]
    if notes:
        table.caption = "; ".join(notes)
        table.caption_justify = "left"
    return table


def _shortened(name: str) -> str:
    """A long identity cut in its middle; its end tells candidates apart."""
    half = _NAME_WIDTH // 2
    return name if len(name) <= _NAME_WIDTH else f"{name[: half - 1]}…{name[-half:]}"


def format_match(row: Row) -> str:
    """The match of a row in a few characters: ``yes 0.21``, ``11 mol.``, ``no``, or a dash."""
    if row.get("matches_reference") is None:
        return "–"
    rmsd, n = row.get("match_rmsd_A"), row.get("match_n")
    if row["matches_reference"]:
        return f"yes {rmsd:.2f}" if rmsd is not None else "yes"
    return f"{n} mol." if n else "no"


def format_group(row: Row) -> str:
    """Space group of a row, marked where not all tolerances of the symmetry ladder agree."""
    group, agreement = row.get("space_group"), row.get("space_group_agreement")
    mark = f" {UNSURE}" if group and agreement is not None and agreement < 1 else ""
    return f"{group or '?'}{mark}"


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


def remove_numbered(folder: Path) -> None:
    """Remove the CIFs of a folder that are named by their rank."""
    for old in folder.glob("*.cif"):
        if re.match(r"\d{3,}_", old.name):
            old.unlink()


def structure_name(row: Row) -> str:
    """Name of a ranked structure in files, for example ``001_urea-z2-000007``."""
    return f"{int(row['rank']):03d}_{_safe(str(row['candidate_id']))}"


def _safe(name: str) -> str:
    """A candidate's identity as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name)[:80]


def cif_comments(row: Row) -> dict[str, str]:
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
