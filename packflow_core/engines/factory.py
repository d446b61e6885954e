"""Engines that a user names as a Python function: `ase:module:factory?argument=value&...`.

Nothing here imports the module that is named: its code must not run before it is trusted (see
`trust`) nor where only a name or a version is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packflow_core.errors import UserInputError

PREFIX = "ase:"
FORM = "ase:module:factory?argument=value&..."

_NAME = re.compile(r"ase:(?P<module>[^:?]+):(?P<factory>[^:?]+)(\?(?P<query>.*))?", re.DOTALL)
_SHA_DIGITS = 16


@dataclass(frozen=True)
class Factory:
    """A function that makes an ASE calculator, and what it is called with.

    Attributes:
        module: dotted name of its module.
        function: its name there.
        arguments: keyword arguments.
    """

    module: str
    function: str
    arguments: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """What has to be trusted: `module:function`, whatever the arguments."""
        return f"{self.module}:{self.function}"


def parse_factory(name: str) -> Factory:
    """The parts of an engine name.

    Values are JSON where they can be read so (`4.5`, `true`, `[1, 2]`, `"4.5"`), text otherwise.
    Percent escapes are resolved: `%26` is an ampersand.

    Raises:
        UserInputError: the name has another form.
    """
    match = _NAME.fullmatch(name)
    if match is None or not all(part.isidentifier() for part in match["module"].split(".")):
        raise UserInputError(_malformed(name))
    if not match["factory"].isidentifier():
        raise UserInputError(_malformed(name))
    arguments: dict[str, Any] = {}
    for item in (match["query"] or "").split("&"):
        if not item:
            continue
        key, equals, value = item.partition("=")
        key = unquote(key)
        if not equals or not key.isidentifier() or key in arguments:
            raise UserInputError(
                f"The argument '{item}' in the engine name '{name}' must be name=value, each name "
                "once."
            )
        arguments[key] = _value(unquote(value))
    return Factory(match["module"], match["factory"], arguments)


def _malformed(name: str) -> str:
    return (
        f"The engine name '{name}' must have the form {FORM}, for example "
        "ase:ase.calculators.lj:LennardJones?sigma=3.4&epsilon=0.01."
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def describe_module(module: str) -> str:
    """Which code a module is: `distribution version`, or `file sha256` of its source.

    The version counts only where the file lies where the distribution was installed; a module of
    the user's own is known by its contents.

    Raises:
        UserInputError: there is no such module.
    """
    spec = locate(module)
    source = None if spec is None else spec.origin
    if source is None or not Path(source).is_file():
        raise UserInputError(
            f"There is no Python module '{module}' for the engine 'ase:{module}:...'; install it, "
            "or add its folder to PYTHONPATH."
        )
    path = Path(source).resolve()
    for name in _distributions().get(module.partition(".")[0], []):
        distribution = metadata.distribution(name)
        home = Path(str(distribution.locate_file(""))).resolve()
        if path.is_relative_to(home):
            return f"{name} {distribution.version}"
    return f"{path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:_SHA_DIGITS]}"


def locate(module: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module is, found without importing it or the packages above it.

    `importlib.util.find_spec` would import those.
    """
    path: list[str] | None = None
    parts = module.split(".")
    spec = None
    for depth in range(1, len(parts) + 1):
        spec = _find(".".join(parts[:depth]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec


def _find(name: str, path: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec = None if find_spec is None else find_spec(name, path)
        if isinstance(spec, importlib.machinery.ModuleSpec):
            return spec
    return None


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    """Distributions by top-level module; takes a moment where hundreds are installed."""
    return {name: sorted(set(found)) for name, found in metadata.packages_distributions().items()}
