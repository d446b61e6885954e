"""The checkpoint that a training gives: safetensors that `csp run --generator PATH` takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from packflow_core.model.checkpoint import Model, save_open
from packflow_core.model.checkpoint_files import FORMAT_OFFICIAL, write_safetensors
from packflow_core.model.open_model import OpenPackFlow

MODEL_FILE = "model.safetensors"


def export_checkpoint(
    path: Path, model: Model, state: dict[str, Tensor], meta: dict[str, Any]
) -> None:
    """Write a checkpoint.

    Open models are written in half precision. The official architecture keeps single precision
    and the names of the published layout, whose place for provenance is `training_config`.

    Args:
        path: safetensors file, written whole or not at all.
        model: gives the configuration.
        state: its weights, for example the averaged ones.
        meta: provenance, plain types only.
    """
    if isinstance(model, OpenPackFlow):
        save_open(path, model, state, meta)
        return
    published = {"model_config": asdict(model.config), "training_config": meta}
    write_safetensors(path, FORMAT_OFFICIAL, None, state, published)
