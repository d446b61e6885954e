"""Metrics of proposals against the known forms of their molecule (PackFlow, section 4.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.metrics import (
    PUBLISHED,
    RDF_BINS,
    RDF_RANGE_A,
    RDF_SHORT_RANGE_A,
    STANDARD,
    ElementTable,
    density_error_of,
    histogram_wasserstein,
)
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import BOND_TOLERANCE, bond_errors, bond_lengths
from packflow_core.crystal.crystal import Crystal
from packflow_core.evaluation.descriptors import Descriptors, describe
from packflow_core.evaluation.geometry import angle_triples, bond_angles, lattice_of
from packflow_core.evaluation.official import single_precision_rdf
from packflow_core.evaluation.schema import METRICS, Row
from packflow_core.evaluation.targets import KnownForm
from packflow_core.store.rows import crystal_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Raised when a metric changes its meaning; part of the name of every table of metrics.
SCORING_VERSION = 1
_SHORT_BINS = round(RDF_BINS * RDF_SHORT_RANGE_A / RDF_RANGE_A)
#: Reason of a proposal whose crystal is too odd for a metric.
UNMEASURED = "metrics"


@dataclass(frozen=True, eq=False)
class Forms:
    """What a proposal is compared with, ready for many comparisons.

    Attributes:
        labels: of the F known forms.
        amd: [F, k] Å.
        rdf: [F, bins] ordered pairs.
        volume: [F] volume of one molecule, Å3.
        official: whether in the way of the published evaluation.
    """

    labels: tuple[str, ...]
    amd: FloatArray
    rdf: FloatArray
    volume: FloatArray
    official: bool


@dataclass(frozen=True, eq=False)
class Comparison:
    """A crystal against its nearest known form.

    Attributes:
        form: place of the nearest form by AMD.
        metrics: values of `schema.METRICS`, in that order.
        volume_ratio: volume of a molecule over that in the form.
    """

    form: int
    metrics: tuple[float, float, float, float, float]
    volume_ratio: float


def make_forms(forms: Sequence[KnownForm], official: bool = False) -> Forms:
    """Known forms, ready for comparisons.

    Raises:
        ValueError: a form's cell is collapsed.
    """
    found = [_described(form.crystal, official) for form in forms]
    return Forms(
        labels=tuple(form.label for form in forms),
        amd=np.stack([d.amd[0] for d in found]),
        rdf=np.stack([d.rdf[0] for d in found]),
        volume=np.array(
            [d.volume[0] / form.crystal.z for d, form in zip(found, forms, strict=True)]
        ),
        official=official,
    )


def compare(predicted: Crystal, known: Crystal, *, official: bool = False) -> dict[str, float]:
    """The five metrics of one crystal against another, heavy atoms alone.

    Args:
        predicted: what was proposed.
        known: of the same molecule; may have another number of them.
        official: in the way of the published evaluation, see `official`.

    Raises:
        ValueError: a metric cannot be computed; it is never reported as zero.
    """
    forms = make_forms([KnownForm("known", "", known.heavy_only(), known.z)], official)
    heavy = predicted.heavy_only()
    found = _described(heavy, official)
    mass = _mass(heavy.numbers, official) / heavy.z
    comparison = _compare(found, 0, heavy.z, mass, forms)
    return dict(zip(METRICS, comparison.metrics, strict=True))


def score_members(
    members: Sequence[tuple[tuple[int, int], Row]], smiles: str, forms: Forms
) -> Iterator[tuple[tuple[int, int], Row] | None]:
    """`score` as a worker process calls it; members are (key, row of a stage)."""
    rows = score([row for _, row in members], Molecule.from_smiles(smiles), forms)
    for (key, _), row in zip(members, rows, strict=True):
        yield key, row


def score(rows: Sequence[Row], molecule: Molecule, forms: Forms) -> list[Row]:
    """Columns of a proposal's metrics for rows of a stage, in their order.

    Rows that are not `ok` keep their status, reason and detail and have no metrics. A crystal for
    which a metric cannot be computed becomes `failed`, with the reason in words.
    """
    out: list[Row] = [
        {
            "status": row["status"],
            "reason": row.get("reason") or "",
            "detail": row.get("detail") or "",
        }
        for row in rows
    ]
    groups: dict[bytes, list[tuple[int, Crystal]]] = {}
    for place, row in enumerate(rows):
        if row["status"] != "ok":
            continue
        try:
            crystal = crystal_of(row).heavy_only()
            if not np.array_equal(crystal.numbers, np.tile(molecule.numbers, crystal.z)):
                raise ValueError("its atoms are not those of the molecule")
            groups.setdefault(crystal.numbers.tobytes(), []).append((place, crystal))
        except (ValueError, TypeError, KeyError) as error:
            out[place].update(_unmeasured(str(error)))
    triples = angle_triples(molecule.bonds)
    for group in groups.values():
        crystals = [crystal for _, crystal in group]
        found = describe(
            crystals[0].numbers,
            np.stack([crystal.positions for crystal in crystals]),
            np.stack([crystal.cell for crystal in crystals]),
            _elements(forms.official),
        )
        mass = _mass(molecule.numbers, forms.official)
        for b, (place, crystal) in enumerate(group):
            try:
                if forms.official and not found.problem[b]:
                    found.rdf[b] = single_precision_rdf(crystal.positions, crystal.cell)
                comparison = _compare(found, b, crystal.z, mass, forms)
            except ValueError as error:
                out[place].update(_unmeasured(str(error)))
                continue
            out[place].update(_columns(comparison, crystal, molecule, triples, forms))
    return out


def _compare(found: Descriptors, b: int, z: int, mass: float, forms: Forms) -> Comparison:
    if found.problem[b]:
        raise ValueError(found.problem[b])
    amd = np.abs(forms.amd - found.amd[b]).max(axis=1)
    nearest = int(amd.argmin())
    rdf, known = found.rdf[b], forms.rdf[nearest]
    volume = float(found.volume[b]) / z
    density_error = density_error_of(
        mass=mass, volume=volume, reference_volume=float(forms.volume[nearest])
    )
    metrics = (
        density_error,
        float(found.clash_percent[b]),
        float(amd[nearest]),
        _wasserstein(rdf, known),
        _wasserstein(rdf[:_SHORT_BINS], known[:_SHORT_BINS]),
    )
    return Comparison(nearest, metrics, volume / float(forms.volume[nearest]))


def _wasserstein(p: FloatArray, q: FloatArray) -> float:
    return histogram_wasserstein(p, q, RDF_RANGE_A / RDF_BINS)


def _columns(
    comparison: Comparison, crystal: Crystal, molecule: Molecule, triples: IntArray, forms: Forms
) -> Row:
    errors = np.abs(bond_errors(crystal, molecule.bonds))
    within = errors <= BOND_TOLERANCE
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    return {
        "form": forms.labels[comparison.form],
        **dict(zip(METRICS, comparison.metrics, strict=True)),
        "volume_ratio": comparison.volume_ratio,
        "bonds_ok": float(within.mean()) if within.size else 1.0,
        "max_bond_error_A": float(errors.max(initial=0.0)),
        "molecules_sound": float(within.all(axis=1).mean()),
        "bond_lengths_A": _single(bond_lengths(crystal, molecule.bonds)),
        "bond_angles_deg": _single(bond_angles(molecules, triples)),
        "lattice_A_deg": _single(lattice_of(crystal.cell)),
    }


def _single(values: FloatArray) -> list[float]:
    return np.asarray(values.reshape(-1), dtype=np.float32).tolist()  # type: ignore[no-any-return]


def _described(crystal: Crystal, official: bool) -> Descriptors:
    """Descriptors of one crystal of heavy atoms.

    Raises:
        ValueError: it has none.
    """
    found = describe(
        crystal.numbers, crystal.positions[None], crystal.cell[None], _elements(official)
    )
    if found.problem[0]:
        raise ValueError(found.problem[0])
    if official:
        found.rdf[0] = single_precision_rdf(crystal.positions, crystal.cell)
    return found


def _elements(official: bool) -> ElementTable:
    return PUBLISHED if official else STANDARD


def _mass(numbers: IntArray, official: bool) -> float:
    return float(_elements(official).masses[numbers].sum())


def _unmeasured(detail: str) -> Row:
    return {"status": "failed", "reason": UNMEASURED, "detail": detail}
