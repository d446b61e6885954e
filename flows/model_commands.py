"""What `csp models ...` does."""

from __future__ import annotations

import math
from typing import Any

from flows.console import Terminal
from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import (
    DEFAULT_MODEL,
    SHIPPED,
    LoadedModel,
    load_model,
    resolve,
    sha256_of,
)

#: Molecule that a model is tried on.
_TRIAL = "c1ccccc1"


def list_models(terminal: Terminal) -> None:
    """The models that can be named."""
    found: list[dict[str, Any]] = []
    for name in SHIPPED:
        path = resolve(name)
        present = path.is_file()
        found.append(
            {
                "name": name,
                "default": name == DEFAULT_MODEL,
                "present": present,
                "size_MB": round(path.stat().st_size / 1e6, 2) if present else None,
                "sha256": sha256_of(path) if present else None,
                "path": str(path),
            }
        )
    if terminal.json:
        terminal.document({"models": found})
        return
    for entry in found:
        note = " (default)" if entry["default"] else ""
        size = f"{entry['size_MB']} MB" if entry["present"] else "not in this installation"
        terminal.write(f"{entry['name']}{note}  {size}  {(entry['sha256'] or '')[:12]}")


def show_model(terminal: Terminal, name: str) -> None:
    """Everything a model says about itself."""
    facts = _facts(load_model(name))
    if terminal.json:
        terminal.document(facts)
        return
    _print(terminal, facts, 0)


def verify_model(terminal: Terminal, name: str) -> None:
    """Load a model and sample one crystal of benzene with it.

    Raises:
        UserInputError: the model is corrupt or gives numbers that are not finite.
    """
    import numpy as np

    from packflow_core.chem.molecule import Molecule
    from packflow_core.model.sampler import Sampler

    loaded = load_model(name)
    sample = Sampler(loaded.model, Molecule.from_smiles(_TRIAL)).sample(1, [0], seed=0)[0]
    if not (np.isfinite(sample.positions).all() and np.isfinite(sample.parameters).all()):
        raise UserInputError(
            f"The model {name} loads but its samples are not finite; it is corrupt, get it again."
        )
    facts = {"name": name, "preset": loaded.preset, "sha256": loaded.sha256, "verified": True}
    if terminal.json:
        terminal.document(facts)
    else:
        terminal.write(f"{name}: loads, samples finite crystals; sha256 {loaded.sha256}")


def _facts(loaded: LoadedModel) -> dict[str, Any]:
    parameters = sum(p.numel() for p in loaded.model.parameters())
    return {
        "name": loaded.name,
        "preset": loaded.preset,
        "parameters": parameters,
        "sha256": loaded.sha256,
        "path": str(resolve(loaded.name)),
        "meta": _plain(loaded.meta),
    }


def _plain(value: Any) -> Any:
    """The value with everything that JSON does not know as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int) else str(value)


def _print(terminal: Terminal, values: dict[str, Any], depth: int) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            terminal.write(f"{'  ' * depth}{key}:")
            _print(terminal, value, depth + 1)
        else:
            terminal.write(f"{'  ' * depth}{key}: {value}")
