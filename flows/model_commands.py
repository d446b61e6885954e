"""What `csp models ...` does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.console import Terminal
from packflow_core.errors import UserInputError
from packflow_core.model import zoo
from packflow_core.model.zoo import ZooModel
from packflow_core.model.zoo_download import OnBytes
from packflow_core.model.zoo_fetch import check, fetch, forget

if TYPE_CHECKING:
    from packflow_core.model.checkpoint import LoadedModel

#: Molecule that a model is tried on.
_TRIAL = "c1ccccc1"
#: Said of the licence of a file that names none.
_NO_LICENCE = "not stated in the file; ask who trained it"


def list_models(terminal: Terminal) -> None:
    """The models that can be named."""
    found = [_entry(model) for model in zoo.ZOO.values()]
    if terminal.json:
        terminal.document({"models": found, "folder": str(zoo.models_folder())})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for title in ("model", "parameters", "licence", "on this machine", "what it is"):
        table.add_column(title, justify="right" if title == "parameters" else "left")
    for facts in found:
        where = "built in" if facts["built_in"] else "yes" if facts["present"] else "no"
        size = f"{facts['parameters'] / 1e6:.1f} M"
        default = " (default)" if facts["default"] else ""
        cells = (facts["name"], size, facts["licence"], where, facts["summary"] + default)
        table.add_row(*map(Text, cells))
    terminal.console().print(table)
    if not all(facts["present"] for facts in found):
        terminal.say("'csp models download NAME' fetches a model; NC: not for commercial use.")


def show_model(terminal: Terminal, name: str) -> None:
    """Everything about a model: licence, source, file, and what the file says about itself."""
    model = zoo.entry(name)
    facts: dict[str, Any] = {"name": name}
    if model is not None:
        facts = _entry(model) | {"terms": model.terms, "source": model.source}
        if not model.shipped:
            facts |= {"address": zoo.address(model), "kept_at": str(zoo.kept_file(model))}
        facts["checksum"] = _checksum(model)
    if model is None or facts["present"]:
        facts |= _loaded_facts(name, model)
    if terminal.json:
        terminal.document(facts)
        return
    _print(terminal, facts, 0)
    if model is not None and not facts["present"]:
        terminal.say(f"Not on this machine yet: csp models download {model.name}")


def download_model(terminal: Terminal, name: str, force: bool = False) -> None:
    """Fetch a published model, and load it once.

    Raises:
        UserInputError: no such model, no network, or not a checkpoint.
    """
    from packflow_core.model.checkpoint import load_model

    model = zoo.named(name)
    there = zoo.find(model)
    if there is None and not terminal.json:
        terminal.say(f"{model.name}: {model.licence}. {model.terms}")
    with _bar(terminal, model) as on_bytes:
        path = fetch(model, force=force, on_bytes=on_bytes)
    came = path != there or (force and not model.shipped)
    try:
        loaded = load_model(model.name)
    except UserInputError:
        if came:  # so that the next attempt does not find it here
            forget(model)
        raise
    facts = {
        "name": model.name,
        "path": str(path),
        "sha256": loaded.sha256,
        "downloaded": came,
        "licence": model.licence,
        "terms": model.terms,
    }
    if terminal.json:
        terminal.document(facts)
        return
    what = "downloaded to" if came else "is here already:"
    terminal.write(f"{model.name} {what} {path}")
    terminal.write(f"sha256 {loaded.sha256}; {_checksum(model)}")


def verify_model(terminal: Terminal, name: str, accept: bool = False) -> None:
    """Check the hash of a model, load it, and sample one crystal of benzene with it.

    Args:
        terminal: where to write.
        name: of a model, or a path.
        accept: take the file of a published model that is there for the right one from now on.

    Raises:
        UserInputError: another file than the one known, corrupt, or its samples are not finite.
    """
    import numpy as np

    from packflow_core.chem.molecule import Molecule
    from packflow_core.model.checkpoint import load_model
    from packflow_core.model.sampler import Sampler

    model = zoo.entry(name)
    if accept and model is None:
        raise UserInputError(f"--accept is for models of 'csp models list'; '{name}' is none.")
    who = check(model, accept=accept).who if model else "nobody: it is a file of yours"
    loaded = load_model(name)
    sample = Sampler(loaded.model, Molecule.from_smiles(_TRIAL)).sample(1, [0], seed=0)[0]
    if not (np.isfinite(sample.positions).all() and np.isfinite(sample.parameters).all()):
        raise UserInputError(
            f"The model {name} loads but its samples are not finite; it is corrupt, get it again."
        )
    facts = {
        "name": name,
        "preset": loaded.preset,
        "sha256": loaded.sha256,
        "sha256_known_by": who,
        "verified": True,
    }
    if terminal.json:
        terminal.document(facts)
    else:
        terminal.write(f"{name}: loads, samples finite crystals")
        terminal.write(f"sha256 {loaded.sha256}, known by {who}")


def convert_model(terminal: Terminal, source: str, target: Path) -> None:
    """Write a checkpoint as safetensors, without the state of its optimiser."""
    from packflow_core.model.checkpoint import convert

    written = convert(source, target)
    facts = {"path": str(target), "sha256": written.sha256, "preset": written.preset}
    if terminal.json:
        terminal.document(facts)
    else:
        terminal.write(f"{target}, {target.stat().st_size / 1e6:.1f} MB, sha256 {written.sha256}")


def _entry(model: ZooModel) -> dict[str, Any]:
    """What is known of a model without loading it."""
    path = zoo.find(model)
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "summary": model.summary,
        "default": model.name == zoo.DEFAULT_MODEL,
        "built_in": bool(model.shipped),
        "present": path is not None,
        "preset": model.preset,
        "parameters": model.parameters,
        "size_MB": round(path.stat().st_size / 1e6, 2) if path else model.size_MB,
        "licence": model.licence,
        "sha256": _known(model),
        "path": str(path) if path else None,
    }


def _known(model: ZooModel) -> str | None:
    path = zoo.find(model)
    return zoo.known_sha256(model, path)[0] or None if path else model.sha256 or None


def _checksum(model: ZooModel) -> str:
    """Who vouches for the hash of a model's file, in words."""
    if model.sha256:
        return "the hash of the file is part of packflow-csp"
    path = zoo.find(model)
    known, who = zoo.known_sha256(model, path) if path else ("", "")
    record = zoo.record_of(model, path) if path else None
    if not known:
        return (
            "the authors publish no hash: the first download is trusted, its hash recorded, and "
            "every later use compared with it"
        )
    if record is None:
        return f"the authors publish no hash; known by {who}"
    stated = ", where the server stated the same" if record.stated else ""
    return f"the authors publish no hash; {who}{stated}, compared at every use"


def _loaded_facts(name: str, model: ZooModel | None) -> dict[str, Any]:
    from packflow_core.model.checkpoint import load_model, resolve

    loaded: LoadedModel = load_model(name)
    facts: dict[str, Any] = {
        "preset": loaded.preset,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "sha256": loaded.sha256,
        "path": str(resolve(name)),
        "meta": _finite(loaded.meta),
    }
    if model is None:
        facts["licence"] = str(loaded.meta.get("licence") or _NO_LICENCE)
    return facts


@contextmanager
def _bar(terminal: Terminal, model: ZooModel) -> Iterator[OnBytes | None]:
    """A bar on a terminal, a line for every tenth elsewhere, nothing when quiet."""
    if terminal.quiet:
        yield None
        return
    if not terminal.err.isatty():
        told = -1

        def on_bytes(done: int, total: int | None) -> None:
            nonlocal told
            tenth = 10 * done // total if total else 0
            if tenth > told:
                told = tenth
                of = f" of {total / 1e6:.0f}" if total else ""
                terminal.say(f"{model.name}: {done / 1e6:.0f}{of} MB")

        yield on_bytes
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = terminal.console(terminal.err)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as shown:
        task = shown.add_task(model.name, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _finite(value: Any) -> Any:
    """The value with NaN and infinity, which JSON does not know, as text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _print(terminal: Terminal, values: dict[str, Any], depth: int) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            terminal.write(f"{'  ' * depth}{key}:")
            _print(terminal, value, depth + 1)
        elif value not in (None, []):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            terminal.write(f"{'  ' * depth}{key}: {shown}")
