"""What Genarris left in its folder: structures by task, as they stand, whole files or torn ones.

Layout: `structures/<task>/structures.json` when a task is complete; while it runs,
`tmp/generation/geometry.out` grows by one structure at a time, and
`tmp/symm_rigid_press/rank_<i>/<i>.save` holds a rank's structures, those pressed marked so.
"""

from __future__ import annotations

import configparser
import json
import logging
from ast import literal_eval
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from packflow_core.baselines.genarris_settings import (
    CONFIG_FILE,
    GENERATION,
    MOLECULE_FILE,
    PRESS,
)

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BEGIN = "####### BEGIN STRUCTURE #######"
_END = "#######  END  STRUCTURE #######"
_ATTEMPTED = "#attempted_spacegroup"
_DETECTED = "#SPGLIB_detected_spacegroup"


@dataclass(frozen=True, eq=False)
class Entry:
    """One structure as it was found.

    Attributes:
        id: Genarris' id; "geometry.out-<n>" where a structure has none yet.
        task: "generation" or "symm_rigid_press", whichever it went through last.
        numbers: [N] atomic numbers.
        positions: [N, 3] Å.
        cell: [3, 3] Å.
        recorded_group: space group that Genarris noted for it, before any press.
        attempted_group: space group that it was placed in, None where that is not known.
        press: "converged" or "unconverged", None for one that was not pressed.
        error: why nothing can be made of it; empty otherwise.
    """

    id: str
    task: str
    numbers: IntArray
    positions: FloatArray
    cell: FloatArray
    recorded_group: int | None = None
    attempted_group: int | None = None
    press: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Asked:
    """What `ui.conf` asks for, as far as it can be read."""

    tasks: tuple[str, ...]
    z: int | None
    molecule_file: str


def read_config(folder: str | Path) -> Asked:
    """Tasks, Z and molecule of the run in a folder."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string((Path(folder) / CONFIG_FILE).read_text())
    except (OSError, UnicodeDecodeError, configparser.Error):
        return Asked((), None, MOLECULE_FILE)

    def value(section: str, key: str) -> Any:
        try:
            return literal_eval(parser.get(section, key))
        except (configparser.Error, ValueError, SyntaxError):
            return None

    tasks, z, paths = (
        value("workflow", "tasks"),
        value("master", "z"),
        value("master", "molecule_path"),
    )
    return Asked(
        tasks=tuple(str(t) for t in tasks) if isinstance(tasks, list) else (),
        z=z if isinstance(z, int) and z > 0 else None,
        molecule_file=str(paths[0]) if isinstance(paths, list) and paths else MOLECULE_FILE,
    )


def final_file(folder: str | Path, task: str) -> Path:
    """Where a task leaves its structures when it is complete."""
    return Path(folder) / "structures" / task / "structures.json"


def read_entries(folder: str | Path) -> list[Entry]:
    """All structures that can be found in a folder, the latest state of each, in a fixed order.

    Of a run with the press: pressed structures, and as they were placed those which the press
    has not reached; one that the press gave up is an entry with an error.
    """
    path = Path(folder)
    placed_in = _attempted_groups(path)
    generated = _read_json(final_file(path, GENERATION), GENERATION)
    if not generated:
        generated = _read_geometry(path / "tmp" / GENERATION / "geometry.out")
    generated = [
        entry
        if entry.attempted_group is not None or entry.error
        else replace(entry, attempted_group=placed_in.get(_fingerprint(entry)))
        for entry in generated
    ]
    if PRESS not in read_config(path).tasks:
        return generated
    origin = {entry.id: entry.attempted_group for entry in generated}
    pressed = _read_json(final_file(path, PRESS), PRESS)
    complete = bool(pressed)
    if not complete:
        pressed = _read_checkpoints(path)
    pressed = [replace(entry, attempted_group=origin.get(entry.id)) for entry in pressed]
    known = {entry.id for entry in pressed}
    rest = [entry for entry in generated if entry.id not in known]
    if complete:
        rest = [
            replace(entry, task=PRESS, error=entry.error or "the rigid press gave it up")
            for entry in rest
        ]
    return pressed + rest


def count_final(folder: str | Path) -> int:
    """Structures in the file that the last task leaves when it is complete; 0 if it is torn."""
    tasks = read_config(folder).tasks
    if not tasks:
        return 0
    try:
        data = json.loads(final_file(folder, tasks[-1]).read_text())
    except (OSError, ValueError):
        return 0
    return len(data) if isinstance(data, dict) else 0


def _read_json(path: Path, task: str) -> list[Entry]:
    """Structures of a `structures.json`; of a torn one, all whose lines are whole."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return []
    try:
        data = json.loads(text)
        if isinstance(data, dict):
            return [_entry(name, value, task) for name, value in data.items()]
    except ValueError:
        logger.warning("'%s' is torn; it is read line by line", path)
    entries: list[Entry] = []
    for line in text.splitlines():
        content = line.strip().rstrip(",")
        if content in ("", "{", "}"):
            continue
        try:
            ((name, value),) = json.loads("{" + content + "}").items()
        except ValueError:
            entries.append(_broken(f"line-{len(entries) + 1}", task, "its line is torn"))
            continue
        entries.append(_entry(name, value, task))
    return entries


def _read_checkpoints(path: Path) -> list[Entry]:
    """Pressed structures in the checkpoints of the ranks of a press that did not end."""
    entries = []
    for file in sorted((path / "tmp" / PRESS).glob("rank_*/*.save")):
        try:
            data = json.loads(file.read_text())
            members = dict(data)
        except (OSError, ValueError, TypeError):
            logger.warning("'%s' is torn: what this rank had pressed is lost", file)
            continue
        for name, value in members.items():
            entry = _entry(name, value, PRESS)
            if entry.press is not None:
                entries.append(entry)
    return entries


def _entry(name: str, value: Any, task: str) -> Entry:
    """One structure from its JSON, which in checkpoints is packed into a string."""
    from ase import Atoms
    from ase.io.jsonio import decode

    try:
        atoms = decode(value if isinstance(value, str) else json.dumps(value))
    except Exception as error:  # the decoder builds whatever the text names
        return _broken(name, task, f"cannot be decoded ({type(error).__name__}: {error})")
    if not isinstance(atoms, Atoms):
        return _broken(name, task, "is no structure")
    group, press = atoms.info.get("spg"), atoms.info.get(PRESS)
    return Entry(
        id=name,
        task=task,
        numbers=np.asarray(atoms.numbers, dtype=np.int64),
        positions=np.asarray(atoms.positions, dtype=np.float64),
        cell=np.asarray(atoms.cell, dtype=np.float64),
        recorded_group=int(group) if isinstance(group, int | np.integer) else None,
        press=str(press) if press is not None else None,
    )


def _read_geometry(path: Path) -> list[Entry]:
    """Structures of a `geometry.out`; the last one may be cut off."""
    entries = []
    for n, text in enumerate(_blocks(path), 1):
        name = f"geometry.out-{n}"
        if _END not in text:
            entries.append(_broken(name, GENERATION, "cut off when the run ended"))
            continue
        try:
            entries.append(_parse_block(name, text))
        except (ValueError, KeyError, IndexError) as error:
            detail = f"cannot be read ({type(error).__name__}: {error})"
            entries.append(_broken(name, GENERATION, detail))
    return entries


def _blocks(path: Path) -> list[str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return text.split(_BEGIN)[1:]


def _parse_block(name: str, text: str) -> Entry:
    groups: dict[str, int] = {}
    numbers: list[int] = []
    rows: dict[str, list[list[float]]] = {"lattice_vector": [], "atom": []}
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] in rows:
            rows[words[0]].append([float(x) for x in words[1:4]])
            if words[0] == "atom":
                numbers.append(atomic_numbers[words[4]])
        elif words[0] in (_ATTEMPTED, _DETECTED):
            groups[words[0]] = int(words[-1])
    return Entry(
        id=name,
        task=GENERATION,
        numbers=np.array(numbers, dtype=np.int64),
        positions=np.array(rows["atom"], dtype=np.float64).reshape(-1, 3),
        cell=np.array(rows["lattice_vector"], dtype=np.float64).reshape(3, 3),
        recorded_group=groups.get(_DETECTED) or None,
        attempted_group=groups.get(_ATTEMPTED),
    )


def _attempted_groups(path: Path) -> dict[bytes, int]:
    """The space group in which each structure was placed, by its `_fingerprint`.

    `structures.json` keeps the group that spglib found instead, and has ids that `geometry.out`
    lacks, so the structures are recognised by their numbers.
    """
    found = {}
    for entry in _read_geometry(path / "tmp" / GENERATION / "geometry.out"):
        if entry.attempted_group is not None:
            found[_fingerprint(entry)] = entry.attempted_group
    return found


def _fingerprint(entry: Entry) -> bytes:
    # six decimals are written; + 0.0 turns -0.0 into 0.0
    values = np.concatenate([entry.cell.reshape(-1), entry.positions[:2].reshape(-1)])
    return (np.round(values, 5) + 0.0).tobytes()


def _broken(name: str, task: str, error: str) -> Entry:
    empty = np.empty((0, 3))
    return Entry(name, task, np.empty(0, dtype=np.int64), empty, empty, error=error)
