"""Checkpoints: ours, the published layout, and the models a user can name.

`packflow_core.model.zoo` knows the names, `packflow_core.model.checkpoint_files` reads the files.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.model import zoo
from packflow_core.model.ablations import AblatedConfig, AblatedPackFlow
from packflow_core.model.checkpoint_files import (
    FORMAT_OFFICIAL,
    FORMAT_OPEN,
    check_weights,
    plain,
    read_checkpoint,
    write_safetensors,
)
from packflow_core.model.official import OfficialConfig, OfficialPackFlow
from packflow_core.model.open_model import OpenConfig, OpenPackFlow
from packflow_core.model.zoo import DEFAULT_MODEL, sha256_of

__all__ = [
    "DEFAULT_MODEL",
    "FORMAT",
    "LoadedModel",
    "Model",
    "convert",
    "load_model",
    "resolve",
    "save_open",
    "sha256_of",
]

FORMAT = FORMAT_OPEN
#: What the published layout says about itself, beside its weights.
_OFFICIAL_META = ("epoch", "loss", "model_config", "training_config")

#: What building a network from foreign contents may raise.
_NOT_OURS = (
    KeyError, TypeError, RuntimeError, AttributeError, ValueError, IndexError, ArithmeticError,
    AssertionError, MemoryError,
)  # fmt: skip

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
    """File of a model of the zoo, or of a path; nothing is downloaded.

    Raises:
        UserInputError: neither a known name nor an existing file, or a published model that is
            not on this machine.
    """
    if entry := zoo.entry(name_or_path):
        return zoo.require(entry)
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise UserInputError(
            f"Generator '{name_or_path}' is neither a model of 'csp models list' "
            f"({', '.join(zoo.ZOO)}) nor a checkpoint file; check the path."
        )
    return path


def load_model(name_or_path: str) -> LoadedModel:
    """Load a model of the zoo, one of ours from a file, or a published PackFlow checkpoint.

    The hash is that of the file that was read. A model of the zoo must have the hash that is
    known of it.

    Raises:
        UserInputError: not found, not a checkpoint, weights that do not fit, or another file
            than the one that was recorded.
    """
    path = resolve(name_or_path)
    before = _version(path)
    digest = sha256_of(path)
    if entry := zoo.entry(name_or_path):
        zoo.check_known(entry, path, digest)
    content = read_checkpoint(path)
    if _version(path) != before:
        raise UserInputError(
            f"{path} was changed while it was read; try again when nothing writes it any more."
        )
    model: Model
    try:
        if content.get("format") == FORMAT:
            preset, (model, meta) = "open", _open(content)
        else:
            preset, (model, meta) = "official", _official(content)
    except _NOT_OURS as error:
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
        path: where; written whole or not at all. Safetensors, or a PyTorch file where the name
            ends in .pt.
        model: gives the configuration.
        state: its weights, for example the averaged ones.
        meta: provenance, plain types only.
    """
    half = {k: v.detach().to("cpu", torch.float16) for k, v in state.items()}
    config = asdict(model.config)
    if path.suffix != ".pt":
        write_safetensors(path, FORMAT, config, half, meta)
        return
    content = {"format": FORMAT, "config": config, "state_dict": half, "meta": meta}
    temporary = path.with_suffix(path.suffix + ".tmp")
    torch.save(content, temporary)
    temporary.replace(path)


def convert(source: str, target: Path) -> LoadedModel:
    """Write a checkpoint as safetensors: the same weights, without an optimiser's state.

    Args:
        source: a name or path, of either layout.
        target: file to write.

    Returns:
        The model as loaded from `target`; its weights are compared with those of the source.

    Raises:
        UserInputError: the source is no checkpoint, or the target cannot be written or is there.
        RunFailedError: what was written is not what was read.
    """
    if target.exists():
        raise UserInputError(f"{target} exists already; name another file.")
    loaded = load_model(source)
    content = read_checkpoint(resolve(source))
    try:
        if loaded.preset == "open":
            write_safetensors(target, FORMAT, content["config"], content["state_dict"], loaded.meta)
        else:
            state = {_strip(k): v for k, v in content["model_state_dict"].items()}
            write_safetensors(target, FORMAT_OFFICIAL, None, state, loaded.meta)
    except OSError as error:
        raise UserInputError(f"{target} cannot be written ({error.strerror}).") from error
    written = load_model(str(target))
    mine, theirs = written.model.state_dict(), loaded.model.state_dict()
    if not all(torch.equal(mine[k], theirs[k]) for k in theirs):
        raise RunFailedError(f"The weights in {target} are not those of {source}; the disk is bad.")
    return written


def _open(content: dict[str, Any]) -> tuple[OpenPackFlow, dict[str, Any]]:
    """Network of one of our files."""
    state = check_weights(content["state_dict"], content["config"])
    config = OpenConfig(**content["config"])
    with torch.device("meta"):
        _check_shapes(OpenPackFlow(config), state)
    model = OpenPackFlow(config)
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)
    return model, plain(dict(content.get("meta", {})))


def _official(content: dict[str, Any]) -> tuple[OfficialPackFlow, dict[str, Any]]:
    """Network of a published checkpoint; shapes come from the weights, never from the name."""
    state = {_strip(k): v for k, v in check_weights(content["model_state_dict"]).items()}
    layers = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer.layers."))
    shape = {
        "d_model": state["cart_coords_embedder.0.weight"].shape[0],
        "num_layers": layers,
        "dim_feedforward": state["transformer.layers.0.linear1.weight"].shape[0],
        "time_embed_dim": state["time_cart_embedder.0.weight"].shape[1],
    }
    told = content.get("model_config")
    build: Callable[[], OfficialPackFlow]
    if isinstance(told, dict) and told.get("bonds") in ("gnn", "none"):
        # One of our ablations, whose weights do not show everything.
        shape |= {k: int(told[k]) for k in ("nhead", "gnn_layers")}
        check_weights(state, shape)
        build = functools.partial(AblatedPackFlow, AblatedConfig(**shape, bonds=told["bonds"]))
    else:
        shape["nhead"] = state["attn_bias_builder.head_bias_base"].shape[0]
        check_weights(state, shape)
        build = functools.partial(OfficialPackFlow, OfficialConfig(**shape))
    with torch.device("meta"):
        _check_shapes(build(), state)
    model = build()
    model.load_state_dict(state, strict=True)
    return model, plain({k: content[k] for k in _OFFICIAL_META if k in content})


def _check_shapes(skeleton: nn.Module, state: dict[str, Tensor]) -> None:
    """Compare weights with a network that takes no memory.

    Raises:
        ValueError: names or shapes differ.
    """
    wanted = {k: tuple(v.shape) for k, v in skeleton.state_dict().items()}
    have = {k: tuple(v.shape) for k, v in state.items()}
    if missing := sorted(set(wanted) - set(have)):
        raise ValueError(f"{len(missing)} weights are missing, {missing[0]} for example")
    if unknown := sorted(set(have) - set(wanted)):
        raise ValueError(f"{len(unknown)} weights are not of this network, {unknown[0]!r}")
    for name, shape in wanted.items():
        if have[name] != shape:
            raise ValueError(f"{name} has the shape {have[name]} instead of {shape}")


def _version(path: Path) -> tuple[int, ...]:
    """Changes whenever the content of a file does."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserInputError(f"{path} cannot be read ({error.strerror}).") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _strip(key: str) -> str:
    """Key without the prefixes that DDP and torch.compile add."""
    for prefix in ("module.", "_orig_mod."):
        key = key.removeprefix(prefix)
    return key
