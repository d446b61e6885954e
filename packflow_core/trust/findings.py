"""What the guards found, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from packflow_core.store.rows import Row

#: Spreads and changes below this, kJ/mol per molecule, are not worth a word.
NOTICEABLE_KJ_MOL = 0.1


def cell_findings(rows: Sequence[Row]) -> list[str]:
    """Sentences about energies in equivalent cells.

    Args:
        rows: of `Verification`, ranks filled.
    """
    found = []
    known = [row for row in rows if row["energy_spread_kJ_mol"] is not None]
    if known:
        worst = max(known, key=lambda row: float(row["energy_spread_kJ_mol"]))
        largest = float(worst["energy_spread_kJ_mol"])
        best = f"the best {len(known)} structures" if len(known) > 1 else "the best structure"
        if largest < NOTICEABLE_KJ_MOL:
            found.append(
                f"Energies of {best} in equivalent cells agree within {largest:.2f} kJ/mol."
            )
        else:
            found.append(
                f"Energies of {best} in equivalent cells differ by up to {largest:.1f} kJ/mol "
                f"(rank {worst['rank']}); smaller differences between structures decide nothing."
            )
            found += _order(known, "larger_rank", "In larger cells")
        swaps = [row for row in known if row.get("swaps_with")]
        if swaps:
            ranks = ", ".join(str(row["rank"]) for row in swaps)
            found.append(f"Within these spreads ranks {ranks} may change places.")
        elif len(known) > 1:
            found.append("No two of them change places within these spreads.")
    for row in rows:
        if row["energy_problem"]:
            found.append(f"Rank {row['rank']} could not be checked fully: {row['energy_problem']}.")
    return found


def tight_findings(rows: Sequence[Row]) -> list[str]:
    """Sentences about the tighter relaxation."""
    found = []
    ended = [row for row in rows if row.get("tight_rank") is not None]
    if ended:
        energy = max(ended, key=lambda row: abs(row["tight_change_kJ_mol"]))
        volume = max(ended, key=lambda row: abs(row["tight_volume_change_percent"]))
        found.append(
            f"Relaxed tighter, energies change by up to {energy['tight_change_kJ_mol']:+.2f} "
            f"kJ/mol (rank {energy['rank']}) and volumes by up to "
            f"{volume['tight_volume_change_percent']:+.2f} % (rank {volume['rank']})."
        )
        found += _order(ended, "tight_rank", "Relaxed tighter")
    for row in rows:
        if row["tight_problem"]:
            found.append(
                f"Rank {row['rank']} did not end ok when relaxed tighter: {row['tight_problem']}."
            )
    return found


def _order(rows: Sequence[Row], column: str, when: str) -> list[str]:
    """A sentence about the order by a column of places; none where there is no order."""
    placed = [row for row in rows if row.get(column) is not None]
    if len(placed) < 2:
        return []
    before = [row["rank"] for row in placed]
    after = [row["rank"] for row in sorted(placed, key=lambda row: int(row[column]))]
    if before == after:
        return [f"{when} they keep their order."]
    return [f"{when} their order becomes {', '.join(map(str, after))} (ranks of the run)."]
