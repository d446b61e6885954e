"""Weights of an existing checkpoint that a training starts from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import load_model


@dataclass(frozen=True)
class Start:
    """A checkpoint whose weights a training begins with.

    Attributes:
        name: file name of the checkpoint, or name of the model.
        sha256: hash of the file.
        architecture: open or official.
        config: shape of the network.
        weights: by name, float32.
    """

    name: str
    sha256: str
    architecture: str
    config: dict[str, Any]
    weights: dict[str, Tensor]

    @property
    def record(self) -> dict[str, str]:
        """What the metadata of a training say about its start."""
        return {"name": self.name, "sha256": self.sha256}

    def check(self, architecture: str, config: dict[str, Any]) -> None:
        """Refuse a network that is not that of the checkpoint.

        Raises:
            UserInputError: architecture or shape differ.
        """
        if architecture != self.architecture:
            raise UserInputError(
                f"{self.name} is a model of the {self.architecture} architecture, which cannot "
                f"start a training of the {architecture} one; choose --architecture "
                f"{self.architecture}."
            )
        names = dict.fromkeys([*self.config, *config])
        wrong = [k for k in names if self.config.get(k) != config.get(k)]
        if wrong:
            theirs = ", ".join(f"{k}={self.config.get(k)}" for k in wrong)
            raise UserInputError(
                f"{self.name} has another shape ({theirs}); leave the shape away, it is taken "
                "from the checkpoint."
            )


def load_start(name_or_path: str) -> Start:
    """Weights of a model of the zoo or of a checkpoint file.

    Raises:
        UserInputError: there is no such model, or it cannot be read.
    """
    loaded = load_model(name_or_path)
    return Start(
        name=name_or_path.replace("\\", "/").rsplit("/", 1)[-1],
        sha256=loaded.sha256,
        architecture=loaded.preset,
        config=asdict(loaded.model.config),
        weights=loaded.model.state_dict(),
    )
