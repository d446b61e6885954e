"""Training data from several folders, each with its share of the crystals that are drawn."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from packflow_core.errors import UserInputError
from packflow_core.training.data import TrainingSet
from packflow_core.training.folder import has_split, open_split


@dataclass(frozen=True)
class Source:
    """A data folder and how often it is drawn from, relative to the others."""

    folder: Path
    weight: float = 1.0


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from.

    Attributes:
        train: crystals of all sources, with the probability at which each is drawn.
        val: crystals for validation, of the first source that has some.
        facts: of each source, for the record: its share, crystals, molecules and a digest.
    """

    train: TrainingSet
    val: TrainingSet
    facts: list[dict[str, Any]]


def parse_source(text: str) -> Source:
    """A source written as FOLDER or FOLDER=WEIGHT.

    Raises:
        UserInputError: the weight is not a positive number.
    """
    head, equals, tail = text.rpartition("=")
    if not equals or not head or Path(text).is_dir():
        return Source(Path(text))
    try:
        weight = float(tail)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise UserInputError(
            f"--data {text} has no weight above zero; write FOLDER=WEIGHT, for example "
            f"{head}=0.7, or FOLDER alone."
        )
    return Source(Path(head), weight)


def open_sources(sources: Sequence[Source], cache: Path, *, max_heavy: int = 96) -> TrainingData:
    """Open the splits train and val of one or several folders.

    Args:
        sources: at least one.
        cache: where splits made from tables are kept.
        max_heavy: see `packflow_core.training.folder.open_split`.

    Raises:
        UserInputError: a folder has no training crystals, none has crystals for validation, or a
            folder is named twice.
    """
    if not sources:
        raise UserInputError("A training needs data; name a folder with --data.")
    kept = [_cache_of(source, cache, alone=len(sources) == 1) for source in sources]
    if len(set(kept)) < len(kept):
        raise UserInputError("--data names a folder twice; give it once, with its whole weight.")
    opened = list(zip(sources, kept, strict=True))
    sets = [open_split(s.folder, "train", k, max_heavy=max_heavy) for s, k in opened]
    with_val = [pair for pair in opened if has_split(pair[0].folder, "val", pair[1])]
    # One folder alone says itself what it lacks.
    if not with_val and len(opened) > 1:
        raise UserInputError(
            f"None of {', '.join(str(s.folder) for s in sources)} has crystals for validation; "
            "put a val.npz into one of them."
        )
    source, folder = (with_val or opened)[0]
    total = sum(s.weight for s in sources)
    shares = [s.weight / total for s in sources]
    return TrainingData(
        train=mix(sets, shares),
        val=open_split(source.folder, "val", folder, max_heavy=max_heavy),
        facts=[
            {
                "share": round(share, 6),
                "crystals": len(one),
                "molecules": len(one.smiles),
                "digest": digest(one),
            }
            for share, one in zip(shares, sets, strict=True)
        ],
    )


def mix(sets: Sequence[TrainingSet], shares: Sequence[float]) -> TrainingSet:
    """One set of the crystals of several, drawn in given proportions.

    Args:
        sets: at least one; a single one comes back as it is.
        shares: of each set in what is drawn, sum 1; inside a set `TrainingSet.weights` rule.
    """
    if len(sets) == 1:
        return sets[0]
    first_molecule = np.cumsum([0] + [len(s.smiles) for s in sets[:-1]])
    first_atom = np.cumsum([0] + [len(s.positions) for s in sets[:-1]])
    weights = [share * s.weights() for share, s in zip(shares, sets, strict=True)]
    offsets = [s.offsets[:-1] + first for s, first in zip(sets, first_atom, strict=True)]
    end = np.array([sum(len(s.positions) for s in sets)])
    return TrainingSet(
        smiles=[name for s in sets for name in s.smiles],
        graphs=[graph for s in sets for graph in s.graphs],
        factors=[factor for s in sets for factor in s.factors],
        molecule_volumes=np.concatenate([s.molecule_volumes for s in sets]),
        molecule=np.concatenate(
            [s.molecule + first for s, first in zip(sets, first_molecule, strict=True)]
        ),
        z=np.concatenate([s.z for s in sets]),
        cells=np.concatenate([s.cells for s in sets]),
        erel=np.concatenate([s.erel for s in sets]),
        offsets=np.concatenate([*offsets, end]).astype(np.int64),
        positions=np.concatenate([s.positions for s in sets]),
        fixed_weights=np.concatenate(weights),
    )


def digest(data: TrainingSet) -> str:
    """First 16 hexadecimal digits of the SHA-256 of what a set holds."""
    sha = hashlib.sha256("\n".join(data.smiles).encode())
    for name in ("molecule", "z", "cells", "erel", "offsets", "positions"):
        sha.update(np.ascontiguousarray(getattr(data, name)).tobytes())
    return sha.hexdigest()[:16]


def _cache_of(source: Source, cache: Path, *, alone: bool) -> Path:
    """Where splits made from the tables of a source are kept."""
    if alone:
        return cache
    resolved = source.folder.resolve()
    name = hashlib.sha256(str(resolved).encode()).hexdigest()[:8]
    return cache / f"{resolved.name}-{name}"
