"""What a checkpoint file holds, read so that a stranger's file can do no harm.

Two kinds of file are known by their first bytes, whatever they are called: safetensors, ours since
version 0.2, and PyTorch's own. The latter are pickles and are read with `weights_only=True`, so
nothing in them is executed; what would blow up in memory is refused before it is loaded.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from packflow_core.errors import UserInputError

#: The one entry of a safetensors header that is ours: JSON with `format`, `config` and `meta`.
#: One entry, because the format does not fix the order of several, and with it the file's hash.
HEADER_KEY = "packflow_csp"
#: Contents of one of our models, and of a published one that was converted.
FORMAT_OPEN, FORMAT_OFFICIAL = "packflow-csp/1", "packflow-official/1"

#: A pickle of weights names tensors; one of this size holds something else.
_MAX_PICKLE_BYTES = 64 << 20
#: Whole numbers of a configuration, the width of a layer for example, stay below this.
_MAX_CONFIG = 1 << 16

#: NumPy scalars that a training loop may leave in a checkpoint, a loss for example.
_PLAIN_GLOBALS: list[Any] = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    np.dtypes.BoolDType,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
]

#: A description of a training has fewer entries, and fewer levels, than this.
_MAX_ENTRIES, _MAX_DEPTH = 10_000, 20

_REMEDY = "download it again or name another with --generator"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint file.

    Args:
        path: safetensors of this project, or a PyTorch file.

    Returns:
        `format`, `config`, `state_dict` and `meta` of one of our files; the dictionary of the
        published layout otherwise.

    Raises:
        UserInputError: not readable, corrupt, or no file of plain weights.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[:2] == b"PK":
            _check_archive(path)
        content = _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path)
    except (
        OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError,
        IndexError, MemoryError, RecursionError, pickle.UnpicklingError, SafetensorError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise UserInputError(
            f"{path} cannot be read as a checkpoint ({_reason(error)}); it is corrupt or not one, "
            f"{_REMEDY}."
        ) from error
    if not isinstance(content, dict):
        raise UserInputError(f"{path} is not a checkpoint of PackFlow; it holds no dictionary.")
    return content


def write_safetensors(
    path: Path,
    form: str,
    config: dict[str, Any] | None,
    state: dict[str, Tensor],
    meta: dict[str, Any],
) -> None:
    """Write weights, as they are, into a safetensors file; the same input gives the same bytes.

    Args:
        path: where; written whole or not at all.
        form: `FORMAT_OPEN` or `FORMAT_OFFICIAL`.
        config: arguments of the network's configuration; None where the weights show it.
        state: weights by name.
        meta: provenance, plain types only.
    """
    header = {"format": form, "config": config, "meta": meta}
    text = json.dumps(header, sort_keys=True, ensure_ascii=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_bytes(save(tensors, metadata={HEADER_KEY: text}))
    temporary.replace(path)


def check_weights(state: Any, config: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """The weights, if they are what they seem to be.

    A tensor may claim a shape far larger than its storage, and a configuration a network far
    larger than the file; either would fill the memory long before the shapes are compared.

    Args:
        state: weights by name.
        config: arguments of the network's configuration.

    Raises:
        ValueError: with what is wrong.
    """
    if not isinstance(state, dict) or not state:
        raise ValueError("it holds no weights")
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ValueError(f"{name!r:.80} is no plain tensor")
        if not value.is_floating_point():
            raise ValueError(f"{name!r:.80} holds {str(value.dtype).removeprefix('torch.')}")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(f"{name!r:.80} claims more numbers than there are")
    for name, number in (config or {}).items():
        if isinstance(number, int) and not 0 <= number < _MAX_CONFIG:
            raise ValueError(f"{name} = {number}")
        if name == "num_layers" and number > len(state):
            raise ValueError(f"weights of {number} layers are not in it")
    return state


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """A description in JSON's types; what JSON does not know becomes text.

    Raises:
        ValueError: it is too large or too deep. (A pickle of a few bytes can hold lists of lists
            that are endless to walk through.)
    """
    left = _MAX_ENTRIES

    def walk(item: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _MAX_DEPTH:
            raise ValueError("its description is too large")
        if isinstance(item, dict):
            return {str(key)[:200]: walk(inner, depth + 1) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [walk(inner, depth + 1) for inner in item]
        if isinstance(item, np.generic):
            item = item.item()
        if item is None or isinstance(item, str | bool | int | float):
            return item
        return str(type(item).__name__)

    found: dict[str, Any] = walk(value, 0)
    return found


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if HEADER_KEY not in metadata:
            raise ValueError("its header names no model of PackFlow")
        header = json.loads(metadata[HEADER_KEY])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header["format"] == FORMAT_OFFICIAL:
        return {"model_state_dict": state, **header["meta"]}
    return {**header, "state_dict": state}


def _read_torch(path: Path) -> Any:
    with torch.serialization.safe_globals(_PLAIN_GLOBALS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Refuse an archive that would unpack to more than its size on disk.

    Raises:
        ValueError: it is compressed, which PyTorch never does, or its pickle is huge.
        zipfile.BadZipFile: it is none.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED or e.file_size > e.compress_size for e in entries):
        raise ValueError("its parts are compressed")
    if any(e.filename.endswith(".pkl") and e.file_size > _MAX_PICKLE_BYTES for e in entries):
        raise ValueError("its index is too large")


def _reason(error: Exception) -> str:
    """One line about a file that cannot be read."""
    # PyTorch's own words on a refused pickle are about its options, not about the file.
    if isinstance(error, pickle.UnpicklingError) or not str(error):
        return "it is not a PyTorch file of plain weights"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0][:120]
