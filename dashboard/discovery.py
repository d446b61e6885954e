"""Which run folders and comparisons lie below the roots; each gets an identity for addresses.

An address of a page or a download holds such an identity, never a path, so nothing outside of what
was found here can be asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

RUN_JSON = "run.json"
COMPARISON_JSON = "comparison.json"
#: Folders deeper than this below a root are not looked into.
MAX_DEPTH = 8
#: Names of folders that hold no runs and may be huge.
_SKIPPED = frozenset({"node_modules", "__pycache__", "structures"})


@dataclass(frozen=True)
class Found:
    """What lies below the roots.

    Attributes:
        runs: run folders by identity.
        comparisons: folders of `csp compare` by identity.
    """

    runs: dict[str, Path]
    comparisons: dict[str, Path]


def identity(folder: Path) -> str:
    """Twelve hexadecimal digits that stand for a folder."""
    return hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def find(roots: Iterable[Path]) -> Found:
    """Look for runs and comparisons; links to folders are not followed, odd folders skipped."""
    runs: dict[str, Path] = {}
    comparisons: dict[str, Path] = {}
    for root in roots:
        for folder, kind in _walk(root.resolve(), 0):
            (runs if kind == RUN_JSON else comparisons)[identity(folder)] = folder
    return Found(runs, comparisons)


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
    try:
        with os.scandir(folder) as entries:
            here = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    names = {entry.name for entry in here}
    if RUN_JSON in names:
        yield folder, RUN_JSON
        return  # inside of a run there are its stages, no other runs
    if COMPARISON_JSON in names:
        yield folder, COMPARISON_JSON
    if depth >= MAX_DEPTH:
        return
    for entry in here:
        if entry.name.startswith(".") or entry.name in _SKIPPED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, depth + 1)
