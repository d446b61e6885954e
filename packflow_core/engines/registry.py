"""Engines by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from packflow_core.engines import factory, uma_files
from packflow_core.errors import UserInputError

if TYPE_CHECKING:
    from packflow_core.engines.base import Engine

#: Where engines that can use a GPU compute: "cpu", or "cuda" for the first one that is visible.
DEVICE_VARIABLE = "PACKFLOW_DEVICE"


class EngineTraits(NamedTuple):
    """What a scheduler has to know of an engine.

    Attributes:
        batched: whether many crystals in one call cost less than one call each.
        gpu: whether it can compute on a GPU.
    """

    batched: bool
    gpu: bool


_ONE_BY_ONE = EngineTraits(batched=False, gpu=False)
_ON_GPU = EngineTraits(batched=True, gpu=True)


@dataclass(frozen=True)
class EngineFamily:
    """Engines that share a way of being made.

    Attributes:
        names: what a user may write.
        package: distribution whose version decides about the numbers.
        label: settings that belong to the identity, for example the parametrisation.
        install: how to get the package.
        make: builds the engine of a name on a device; may import heavy libraries.
        traits: for the scheduler.
        prefix: names that begin with it belong to the family, too; empty for none.
        form: how such names look, for people.
        describe: label of a name with the prefix; may read files, imports nothing heavy.
        fetch: gets what an engine needs beyond its package, for example weights.
    """

    names: tuple[str, ...]
    package: str
    label: str
    install: str
    make: Callable[[str, str], Engine]
    traits: EngineTraits = _ONE_BY_ONE
    prefix: str = ""
    form: str = ""
    describe: Callable[[str], str] | None = None
    fetch: Callable[[str], object] | None = None

    def matches(self, name: str) -> bool:
        """Whether an engine of that name belongs here."""
        return name in self.names or (self.prefix != "" and name.startswith(self.prefix))


def _gfnff(name: str, device: str) -> Engine:
    from packflow_core.engines.gfnff import GFNFFEngine

    return GFNFFEngine()


def _xtb(name: str, device: str) -> Engine:
    from packflow_core.engines.xtb import XTBEngine

    return XTBEngine(name)


def _springs(name: str, device: str) -> Engine:
    from packflow_core.engines.springs import SpringsEngine

    return SpringsEngine(device)


def _uma(name: str, device: str) -> Engine:
    from packflow_core.engines.uma import UMAEngine

    return UMAEngine(name, device)


def _describe_uma(name: str) -> str:
    path = uma_files.checkpoint(name)
    return f"uma:{path.name}/{UMA_LABEL},sha256={uma_files.fingerprint(path)}"


def _ase(name: str, device: str) -> Engine:
    from packflow_core.engines.ase_any import AnyASEEngine

    return AnyASEEngine(name)


def _describe_ase(name: str) -> str:
    return f"{name}/{factory.describe_module(factory.parse_factory(name).module)}"


UMA_LABEL = "omc,float32,merged"

#: Every engine there is; another one is another entry here and a module beside this one.
FAMILIES: tuple[EngineFamily, ...] = (
    EngineFamily(("gfnff",), "gfnff", "mcgfnff2023", "pip install gfnff==0.3.1", _gfnff),
    EngineFamily(
        ("gfn1-xtb", "gfn2-xtb"),
        "tblite",
        "gamma,heights>=8A",
        "pip install 'packflow-csp[xtb]'",
        _xtb,
    ),
    EngineFamily(
        uma_files.NAMES,
        "fairchem-core",
        UMA_LABEL,
        "pip install 'packflow-csp[uma]'",
        _uma,
        _ON_GPU,
        prefix=uma_files.PREFIX,
        form=uma_files.FORM,
        describe=_describe_uma,
        fetch=uma_files.checkpoint,
    ),
    EngineFamily(
        ("springs",),
        "torch",
        "demo1",
        "pip install packflow-csp",
        _springs,
        _ON_GPU,
    ),
    EngineFamily(
        (),
        "ase",
        "",
        "pip install packflow-csp",
        _ase,
        prefix=factory.PREFIX,
        form=factory.FORM,
        describe=_describe_ase,
    ),
)


def engine_names() -> tuple[str, ...]:
    """Names of all known engines, installed or not; forms of names where there are many."""
    return tuple(
        name
        for family in FAMILIES
        for name in (*family.names, *((family.form,) if family.form else ()))
    )


def get_engine(name: str) -> Engine:
    """The engine of a name, on the device of the environment; one per process, name and device.

    Whether the name may be used at all is not asked here: see `trust.check_trusted`.

    Raises:
        UserInputError: unknown, its package is not installed, or its weights cannot be had.
    """
    return _engine(name, _device())


@lru_cache(maxsize=8)
def _engine(name: str, device: str) -> Engine:
    family = family_of(name)
    _package_version(family, name)
    return family.make(name, device)


def engine_identity(name: str) -> str:
    """Name, settings and version in one line, without loading the engine's library.

    Raises:
        UserInputError: unknown, its package is not installed, or there is no such file or module.
    """
    family = family_of(name)
    version = _package_version(family, name)
    if name in family.names or family.describe is None:
        described = f"{name}/{family.label}"
    else:
        described = family.describe(name)
    return f"{described} ({family.package} {version})"


def engine_traits(name: str) -> EngineTraits:
    """What a scheduler has to know of an engine, without loading its library.

    Raises:
        UserInputError: unknown.
    """
    return family_of(name).traits


def fetch_engine(name: str) -> None:
    """Get what an engine needs beyond its package (weights), so that workers need no network.

    Raises:
        UserInputError: unknown, not installed, or it cannot be had; with what to do.
    """
    family = family_of(name)
    _package_version(family, name)
    if family.fetch is not None:
        family.fetch(name)


def family_of(name: str) -> EngineFamily:
    """The family that an engine belongs to.

    Raises:
        UserInputError: unknown.
    """
    for family in FAMILIES:
        if family.matches(name):
            return family
    raise UserInputError(f"Unknown engine '{name}'; known engines: {', '.join(engine_names())}.")


def installed_version(family: EngineFamily) -> str | None:
    """Version of the package of a family; None where it is not installed."""
    try:
        return metadata.version(family.package)
    except metadata.PackageNotFoundError:
        return None


def _package_version(family: EngineFamily, name: str) -> str:
    version = installed_version(family)
    if version is None:
        raise UserInputError(
            f"The engine '{name}' needs the package {family.package}; install it with "
            f"{family.install}, or choose another engine."
        )
    return version


def _device() -> str:
    device = os.environ.get(DEVICE_VARIABLE) or "cpu"
    if device not in {"cpu", "cuda"}:
        raise UserInputError(f"{DEVICE_VARIABLE} is '{device}'; it must be 'cpu' or 'cuda'.")
    return device
