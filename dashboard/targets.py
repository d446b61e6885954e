"""Runs grouped by target: the same name and the same molecule."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dashboard.runs import RunView


def target_id(run: RunView) -> str:
    """Twelve hexadecimal digits that stand for the target of a run."""
    text = json.dumps([run.target, run.smiles])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def targets(runs: Iterable[RunView]) -> dict[str, list[RunView]]:
    """Runs by the identity of their target, ordered by its name."""
    groups: dict[str, list[RunView]] = {}
    for run in sorted(runs, key=lambda r: (r.target, r.smiles, r.campaign, str(r.folder))):
        groups.setdefault(target_id(run), []).append(run)
    return groups


def target_options(groups: Mapping[str, Sequence[RunView]]) -> list[dict[str, str]]:
    """Choices of a menu of targets."""
    return [
        {"label": f"{runs[0].target}  ·  {runs[0].smiles}", "value": identity}
        for identity, runs in groups.items()
    ]


def run_options(runs: Sequence[RunView]) -> list[dict[str, str]]:
    """Choices of a menu of runs, with names that differ."""
    return [
        {"label": label, "value": run.id} for run, label in zip(runs, run_labels(runs), strict=True)
    ]


def all_run_options(runs: Iterable[RunView]) -> list[dict[str, str]]:
    """Choices of a menu of runs of any target."""
    return [
        {"label": f"{run.label}  (in {run.folder.parent.name})", "value": run.id} for run in runs
    ]


def run_labels(runs: Sequence[RunView]) -> list[str]:
    """Names of runs that differ: the method, and as much more as it takes."""
    labels = [run.method for run in runs]
    for more in (
        [run.campaign for run in runs],
        [f"seed {run.store.plan.spec.seed}" for run in runs],
        [f"in {run.folder.parent.name}/{run.folder.name}" for run in runs],
        [run.id for run in runs],
    ):
        counts = Counter(labels)
        if len(counts) == len(labels):
            break
        # Of a name that several share, only what makes them differ helps.
        longer = [
            f"{label}, {extra}" if counts[label] > 1 else label
            for label, extra in zip(labels, more, strict=True)
        ]
        if len(set(longer)) > len(counts):
            labels = longer
    return labels
