"""The state of a training on disk: written whole, checked when read, with the one before it kept.

A power cut or a full disk may leave a state that cannot be read. The one before it then takes its
place, and the training does the steps between the two again.
"""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from packflow_core.errors import UserInputError

log = logging.getLogger(__name__)

STATE_FILE, PREVIOUS_FILE = "training-state.pt", "training-state-previous.pt"

_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError,
    pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


def has_state(folder: Path) -> bool:
    """Whether a folder holds a training."""
    return any((folder / name).exists() for name in (STATE_FILE, PREVIOUS_FILE))


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a state; the last one becomes the one before.

    Args:
        folder: of the training.
        state: plain types and tensors.

    Raises:
        UserInputError: the folder cannot be written.
    """
    target, temporary = folder / STATE_FILE, folder / (STATE_FILE + ".tmp")
    try:
        torch.save(state, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if target.exists():
            target.replace(folder / PREVIOUS_FILE)
        temporary.replace(target)
    except (OSError, RuntimeError) as error:  # PyTorch's own word for a full disk
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserInputError(
            f"{folder} cannot be written ({reason}); make room there, the same command continues."
        ) from error


def read_state(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The last state that can be read, None where there is none.

    Args:
        folder: of the training.
        device: where its tensors go.

    Raises:
        UserInputError: there are states, and none can be read.
    """
    broken = []
    for name in (STATE_FILE, PREVIOUS_FILE):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read(path, device)
        except _UNREADABLE as error:
            broken.append(name)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning("%s cannot be read (%s)", path, reason)
            continue
        if broken:
            log.warning("%s is damaged; the training continues at step %d, from %s",
                        broken[0], state["step"], name)  # fmt: skip
        return state
    if broken:
        raise UserInputError(
            f"No state of the training in {folder} can be read ({', '.join(broken)}); "
            "start again in another folder, with --init and the model that is there."
        )
    return None


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    # PyTorch does not compare checksums: flipped bits would be read as weights.
    with zipfile.ZipFile(path) as archive:
        if bad := archive.testzip():
            raise ValueError(f"{bad} is damaged")
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict) or not {"params", "step", "model"} <= set(state):
        raise ValueError("it is no state of a training")
    return state
