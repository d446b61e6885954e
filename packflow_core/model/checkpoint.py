"""Checkpoints: ours, the published layout, and the models a user can name.

Files are read with `weights_only=True`: a checkpoint from a stranger cannot run code.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from packflow_core.errors import UserInputError
from packflow_core.model.official import OfficialConfig, OfficialPackFlow
from packflow_core.model.open_model import OpenConfig, OpenPackFlow

FORMAT = "packflow-csp/1"
#: Models that ship in the package, by name.
SHIPPED = {"packflow-open": "packflow-open.pt"}
DEFAULT_MODEL = "packflow-open"

Model = OfficialPackFlow | OpenPackFlow


@dataclass(frozen=True)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        model: the network, float32, in evaluation mode.
        preset: open or official.
        name: the name or path that was asked for.
        sha256: hash of the file.
        meta: what the training wrote about itself.
    """

    model: Model
    preset: str
    name: str
    sha256: str
    meta: dict[str, Any]


def resolve(name_or_path: str) -> Path:
    """File of a shipped model or of a path.

    Raises:
        UserInputError: neither a known name nor an existing file.
    """
    if name_or_path in SHIPPED:
        return Path(str(resources.files("packflow_core") / "data" / SHIPPED[name_or_path]))
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise UserInputError(
            f"Generator '{name_or_path}' is neither a shipped model ({', '.join(SHIPPED)}) "
            "nor a checkpoint file; check the path."
        )
    return path


def sha256_of(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_model(name_or_path: str) -> LoadedModel:
    """Load a shipped model, one of ours from a file, or a published PackFlow checkpoint.

    Raises:
        UserInputError: not found, not a checkpoint, or weights that do not fit.
    """
    path = resolve(name_or_path)
    content = _read(path)
    digest = sha256_of(path)
    try:
        if content.get("format") == FORMAT:
            model: Model = OpenPackFlow(OpenConfig(**content["config"]))
            state = {k: v.float() for k, v in content["state_dict"].items()}
            model.load_state_dict(state, strict=True)
            preset, meta = "open", dict(content.get("meta", {}))
        else:
            model, meta = _official(content)
            preset = "official"
    except (KeyError, TypeError, RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserInputError(
            f"{path} is not a checkpoint of PackFlow ({reason}); "
            "download it again or name another with --generator."
        ) from error
    return LoadedModel(model.eval(), preset, name_or_path, digest, meta)


def save_open(
    path: Path, model: OpenPackFlow, state: dict[str, Tensor], meta: dict[str, Any]
) -> None:
    """Write weights of an open model in half precision.

    Args:
        path: where; written whole or not at all.
        model: gives the configuration.
        state: its weights, for example the averaged ones.
        meta: provenance, plain types only.
    """
    half = {k: v.detach().to("cpu", torch.float16) for k, v in state.items()}
    content = {"format": FORMAT, "config": asdict(model.config), "state_dict": half, "meta": meta}
    temporary = path.with_suffix(path.suffix + ".tmp")
    torch.save(content, temporary)
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        # PyTorch's own words on a refused pickle are about its options, not about the file.
        if isinstance(error, pickle.UnpicklingError) or not str(error):
            reason = "it is not a PyTorch file of plain weights"
        else:
            reason = str(error).splitlines()[0]
        raise UserInputError(
            f"{path} cannot be read as a checkpoint ({reason[:120]}); it is corrupt or not one, "
            "download it again or name another with --generator."
        ) from error
    if not isinstance(content, dict):
        raise UserInputError(f"{path} is not a checkpoint of PackFlow; it holds no dictionary.")
    return content


def _official(content: dict[str, Any]) -> tuple[OfficialPackFlow, dict[str, Any]]:
    """Network of a published checkpoint; shapes come from the weights, never from the name."""
    state = {_strip(k): v for k, v in content["model_state_dict"].items()}
    layers = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer.layers."))
    config = OfficialConfig(
        d_model=state["cart_coords_embedder.0.weight"].shape[0],
        nhead=state["attn_bias_builder.head_bias_base"].shape[0],
        num_layers=layers,
        dim_feedforward=state["transformer.layers.0.linear1.weight"].shape[0],
        time_embed_dim=state["time_cart_embedder.0.weight"].shape[1],
    )
    model = OfficialPackFlow(config)
    model.load_state_dict(state, strict=True)
    meta: dict[str, Any] = {
        k: content[k]
        for k in ("epoch", "loss", "model_config", "training_config")
        if k in content and not isinstance(content[k], Tensor)
    }
    return model, meta


def _strip(key: str) -> str:
    """Key without the prefixes that DDP and torch.compile add."""
    for prefix in ("module.", "_orig_mod."):
        key = key.removeprefix(prefix)
    return key
