"""Where gas-phase references are kept: in the folder of a run, and once for all runs of a user."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from packflow_core.engines.trust import needs_trust
from packflow_core.store.atomic import storage_errors, write_json
from packflow_core.trust.gas_phase import GasPhase

logger = logging.getLogger(__name__)

#: File in the folder of a run.
GAS_PHASE_FILE = "gas_phase.json"

#: Set to 0 to keep the references of runs to themselves.
SHARE_VARIABLE = "PACKFLOW_SHARE_GAS_PHASE"


def read_gas_phase(folder: Path, key: str | None = None) -> GasPhase | None:
    """The reference that a run's folder holds; None where there is none, or of another key.

    A file that cannot be read counts as none: it is computed again.

    Args:
        folder: of the run.
        key: what it must be of, see `gas_phase_key`; anything when None.
    """
    return _read(folder / GAS_PHASE_FILE, key)


def write_gas_phase(folder: Path, found: GasPhase) -> None:
    """Keep a reference in a run's folder, all or nothing.

    Raises:
        StorageFullError: no space left.
        UserInputError: the folder cannot be written.
    """
    with storage_errors(folder):
        write_json(folder / GAS_PHASE_FILE, found.as_dict())


def shared_folder() -> Path | None:
    """Folder of the user's cache with references of all runs; None where it is switched off."""
    if os.environ.get(SHARE_VARIABLE, "1").strip() == "0":
        return None
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The standard of these variables says that relative paths are to be ignored.
    root = Path(cache) if os.path.isabs(cache) else Path("~/.cache").expanduser()
    return root / "packflow-csp" / "gas_phase"


def read_shared(engine: str, key: str) -> GasPhase | None:
    """A reference that another run of this user left.

    Args:
        engine: name of the engine. Those that run foreign code share nothing: their identity
            names one file or version, and their numbers may hang on more.
        key: what it must be of.
    """
    folder = shared_folder()
    if folder is None or needs_trust(engine):
        return None
    return _read(folder / f"{key}.json", key)


def write_shared(engine: str, found: GasPhase) -> None:
    """Leave a reference for other runs; what cannot be written is only slower next time."""
    folder = shared_folder()
    if folder is None or needs_trust(engine) or found.energy_eV is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{found.key}.json", found.as_dict())
    except OSError as error:
        logger.info("the gas-phase reference is not shared: %s", error)


def _read(path: Path, key: str | None) -> GasPhase | None:
    try:
        found = GasPhase.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("%s is passed over: %s", path, error)
        return None
    return found if key in (None, found.key) else None
