"""Engines by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING

from packflow_core.errors import UserInputError

if TYPE_CHECKING:
    from packflow_core.engines.base import Engine


@dataclass(frozen=True)
class EngineFamily:
    """Engines that share a way of being made.

    Attributes:
        names: what a user may write.
        package: distribution whose version decides about the numbers.
        label: settings that belong to the identity, for example the parametrisation.
        install: how to get the package.
        make: builds the engine of a name; may import heavy libraries.
    """

    names: tuple[str, ...]
    package: str
    label: str
    install: str
    make: Callable[[str], Engine]


def _gfnff(name: str) -> Engine:
    from packflow_core.engines.gfnff import GFNFFEngine

    return GFNFFEngine()


#: Every engine there is; another one is another entry here and a module beside this one.
FAMILIES: tuple[EngineFamily, ...] = (
    EngineFamily(("gfnff",), "gfnff", "mcgfnff2023", "pip install gfnff==0.3.1", _gfnff),
)


def engine_names() -> tuple[str, ...]:
    """Names of all known engines, installed or not."""
    return tuple(name for family in FAMILIES for name in family.names)


@lru_cache(maxsize=8)
def get_engine(name: str) -> Engine:
    """The engine of a name; one per process and name.

    Raises:
        UserInputError: unknown, or its package is not installed.
    """
    family = _family(name)
    _package_version(family, name)
    return family.make(name)


def engine_identity(name: str) -> str:
    """Name, settings and version in one line, without loading the engine's library.

    Raises:
        UserInputError: unknown, or its package is not installed.
    """
    family = _family(name)
    return f"{name}/{family.label} ({family.package} {_package_version(family, name)})"


def _family(name: str) -> EngineFamily:
    for family in FAMILIES:
        if name in family.names:
            return family
    raise UserInputError(f"Unknown engine '{name}'; known engines: {', '.join(engine_names())}.")


def _package_version(family: EngineFamily, name: str) -> str:
    try:
        return metadata.version(family.package)
    except metadata.PackageNotFoundError as error:
        raise UserInputError(
            f"The engine '{name}' needs the package {family.package}; install it with "
            f"'{family.install}' or choose another engine."
        ) from error
