"""Logs of a training: a CSV file, and TensorBoard where it is wanted."""

from __future__ import annotations

import csv
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packflow_core.errors import UserInputError

LOG_FILE, BOARD_FOLDER = "training-log.csv", "tensorboard"


def require_tensorboard() -> None:
    """Check that TensorBoard is there.

    Raises:
        UserInputError: it is not installed.
    """
    if find_spec("tensorboard") is None:
        raise UserInputError(
            "--tensorboard needs the package tensorboard; install it with 'pip install "
            "tensorboard', or read training-log.csv, which is always written."
        )


class TrainingLog:
    """Rows of numbers, one for each save, in the folder of a training.

    Args:
        folder: of the training.
        step: where it stands; rows of later steps, which a kill left behind, are removed.
        tensorboard: write the folder `tensorboard` too.

    Raises:
        UserInputError: TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self.path = folder / LOG_FILE
        self._board: Any = None
        self._names: list[str] = []
        _trim(self.path, step)
        if tensorboard:
            require_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / BOARD_FOLDER, purge_step=step + 1)

    def write(self, row: dict[str, float]) -> None:
        """Append a row; its first column is `step`."""
        if not set(row) <= set(self._names):
            self._names = _widened(self.path, list(row))
        with self.path.open("a", newline="") as f:
            writer = csv.DictWriter(f, self._names)
            if f.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        if self._board is not None:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(row["step"]))
            self._board.flush()


def _widened(path: Path, names: list[str]) -> list[str]:
    """Columns of a log that has at least these; an earlier version may have written fewer."""
    try:
        with path.open(newline="") as f:
            log = csv.DictReader(f)
            columns, rows = list(log.fieldnames or []), list(log)
    except FileNotFoundError:
        return names
    if missing := [name for name in names if name not in columns]:
        columns += missing
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="") as f:
            writer = csv.DictWriter(f, columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, path)
    return columns


def _trim(path: Path, step: int) -> None:
    """Remove rows of steps after `step`, and a line that a kill cut short."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = lines[:1] + [line for line in lines[1:] if _is_row(line, lines[0], step)]
    if kept == lines:
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _is_row(line: str, header: str, step: int) -> bool:
    fields = line.split(",")
    whole = line.endswith("\n") and len(fields) == len(header.split(","))
    return whole and fields[0].isdigit() and int(fields[0]) <= step
