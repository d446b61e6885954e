"""Powder patterns of ranked structures as a table: Parquet with everything, CSV to read."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.analysis.pxrd_measured import MeasuredPattern
from packflow_core.analysis.pxrd_patterns import PxrdParams, find_reflections, profile
from packflow_core.analysis.pxrd_similarity import compare
from packflow_core.analysis.symmetrised import expand, symmetrise
from packflow_core.analysis.symmetry import SYMPREC_LADDER
from packflow_core.crystal.crystal import Crystal
from packflow_core.store.atomic import atomic_path
from packflow_core.store.rows import Row, crystal_of

#: Reflections, the strongest, that the CSV names.
_NAMED_REFLECTIONS = 8


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    metadata = {"description": description, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, metadata=metadata)


_S, _I, _F = pa.string(), pa.int64(), pa.float64()
_FL = pa.list_(pa.float32())

#: Columns of `pxrd.parquet`.
SCHEMA = pa.schema(
    [
        _field("rank", _I, "of the ranking by energy"),
        _field("candidate_id", _S, "identity of the candidate"),
        _field("lattice_energy_rel_kJ_mol", _F, "energy per molecule above the minimum", "kJ/mol"),
        _field("density_g_cm3", _F, "density of the relaxed crystal", "g/cm3"),
        _field("space_group", _S, "Hermann-Mauguin symbol by spglib"),
        _field("pattern_rank", _I, "1 for the pattern most like the measured one"),
        _field("similarity", _F, "weighted cross-correlation with the measured pattern, 0 to 1"),
        _field("similarity_scaled", _F, "the same, of the cell scaled to fit best"),
        _field("volume_factor", _F, "volume of that cell over the relaxed one"),
        _field("detail", _S, "why there is no pattern; empty otherwise"),
        _field("start_deg", _F, "2 theta of the first point of the profile", "degrees"),
        _field("step_deg", _F, "2 theta between two points of the profile", "degrees"),
        _field("intensity", _FL, "profile of the relaxed cell, maximum 100"),
        _field("reflection_deg", _FL, "2 theta of the reflections of the relaxed cell", "degrees"),
        _field("reflection_intensity", _FL, "their integrated intensities, maximum 100"),
        _field("reflection_d_A", _FL, "their spacings", "Å"),
        _field("reflection_hkl", pa.list_(pa.int64()), "h, k, l of one of each set"),
    ]
)  # fmt: skip

#: Columns of `pxrd.csv` that come from the table, with their decimals.
CSV_COLUMNS: dict[str, int | None] = {
    "pattern_rank": None, "rank": None, "candidate_id": None, "lattice_energy_rel_kJ_mol": 3,
    "density_g_cm3": 4, "space_group": None, "similarity": 4, "similarity_scaled": 4,
    "volume_factor": 4, "detail": None,
}  # fmt: skip


def pattern_rows(
    rows: Sequence[Row], params: PxrdParams, measured: MeasuredPattern | None = None
) -> Iterator[Row]:
    """Pattern of each structure, in their order; a structure without one has a `detail`.

    Args:
        rows: of the rank stage.
        params: radiation, range, profile.
        measured: pattern to compare with.

    Yields:
        Rows of `SCHEMA` without `pattern_rank`; h, k, l are those of the symmetrised cell.
    """
    for row in rows:
        out: Row = {name: row.get(name) for name in SCHEMA.names}
        out.update(detail="", start_deg=params.low_deg, step_deg=params.step_deg)
        try:
            found = find_reflections(_conventional(row), params)
        except Exception as error:  # of a library, about one structure: a row, not an end
            yield {**out, "detail": f"{type(error).__name__}: {error}"}
            continue
        angles, heights = found.angles(params.wavelength_A), found.intensities(params)
        inside = (angles >= params.low_deg) & (angles <= params.high_deg)
        highest = float(heights[inside].max(initial=0.0)) or 1.0
        out.update(
            intensity=profile(found, params).astype(np.float32).tolist(),
            reflection_deg=angles[inside].tolist(),
            reflection_intensity=(100.0 * heights[inside] / highest).tolist(),
            reflection_d_A=found.d[inside].tolist(),
            reflection_hkl=found.hkl[inside].reshape(-1).tolist(),
        )
        if measured is not None:
            out.update(compare(found, measured, params)._asdict())
        yield out


def _conventional(row: Row) -> Crystal:
    """The crystal of a row in its conventional cell with exact symmetry, where it has one.

    There, equivalent reflections coincide to the last bit and become one.
    """
    crystal = crystal_of(row)
    found = symmetrise(crystal, float(row.get("symprec_A") or SYMPREC_LADDER[0]))
    if found is None:
        return crystal
    numbers, frac = expand(found)
    return Crystal(numbers, frac @ found.cell, found.cell, found.z)


def with_pattern_rank(rows: Sequence[Row]) -> list[Row]:
    """Rows by likeness with the measured pattern; unchanged where there was none to compare.

    The better of equal ones is the one of lower energy; rows without a pattern come last.
    """
    if all(row.get("similarity_scaled") is None for row in rows):
        return list(rows)
    order = sorted(
        rows,
        key=lambda row: (
            row.get("similarity_scaled") is None,
            -round(row.get("similarity_scaled") or 0.0, 6),
            int(row["rank"]),
        ),
    )
    return [
        {**row, "pattern_rank": k if row.get("similarity_scaled") is not None else None}
        for k, row in enumerate(order, start=1)
    ]


def write_parquet(rows: Sequence[Row], path: Path, facts: dict[str, str]) -> None:
    """Write rows of `SCHEMA` atomically; `facts` go into the metadata of the table."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA.with_metadata(facts))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write one line a structure atomically, with its strongest reflections."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as handle,
    ):
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*CSV_COLUMNS, "strongest_reflections_deg"])
        for row in rows:
            cells = [_cell(row.get(name), digits) for name, digits in CSV_COLUMNS.items()]
            writer.writerow([*cells, _strongest(row)])


def _strongest(row: Row) -> str:
    """``12.31 (100) 25.20 (48)``: angle and intensity of the strongest reflections, by angle."""
    angles = np.asarray(row.get("reflection_deg") or [], dtype=np.float64)
    heights = np.asarray(row.get("reflection_intensity") or [], dtype=np.float64)
    chosen = np.sort(np.argsort(-heights, kind="stable")[:_NAMED_REFLECTIONS])
    chosen = chosen[np.argsort(angles[chosen], kind="stable")]
    return " ".join(f"{angles[k]:.2f} ({heights[k]:.0f})" for k in chosen)


def _cell(value: Any, decimals: int | None) -> str:
    if value is None:
        return ""
    return str(value) if decimals is None else f"{float(value):.{decimals}f}"
