"""`csp doctor`: is everything in place that a run needs?

Each check looks at one thing and says what it found and, where something is missing, how to mend
it. A check never raises.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packflow_core import doctor_sites
from packflow_core.doctor_sites import Verdict
from packflow_core.errors import PackflowError

#: Packages of the main job; the versions that must not differ are told by pip's own metadata.
_NEEDED = (
    "ase", "fastapi", "gemmi", "gfnff", "matplotlib", "numpy", "oxtalign", "pandas", "prefect",
    "pyarrow", "pydantic", "pymatgen", "rdkit", "rich", "scipy", "spglib", "torch", "typer",
)  # fmt: skip
_ENGINE_TIMEOUT_S = 300.0
_LOW_MEMORY_GB = 2.0


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        name: what was looked at.
        verdict: ok, warn (a run may work) or fail (it will not).
        detail: what was found, and how to mend it.
    """

    name: str
    verdict: Verdict
    detail: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def check_all() -> list[Check]:
    """Run every check; takes a few seconds, most of them the engine's."""
    checks: list[tuple[str, Callable[[], tuple[Verdict, str]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("processors", _processors),
        ("memory", _memory),
        ("disk", _disk),
        ("torch", _torch),
        ("gpu", doctor_sites.gpus),
        ("model", _model),
        ("engine gfnff", _engine),
        ("engine gfn1-xtb, gfn2-xtb", _xtb),
        ("engine uma", _uma),
        ("engine ase", _ase),
        ("genarris", _genarris),
        ("mpi", _mpi),
        ("prefect", _prefect),
        ("dask", _dask),
        ("object store", doctor_sites.object_store),
    ]
    return [_guarded(name, check) for name, check in checks]


def _guarded(name: str, check: Callable[[], tuple[Verdict, str]]) -> Check:
    try:
        return Check(name, *check())
    except PackflowError as error:
        return Check(name, "fail", str(error))
    except Exception as error:
        return Check(name, "fail", f"{type(error).__name__}: {error}")


def _python() -> tuple[Verdict, str]:
    found = f"{platform.python_version()} on {platform.platform()}"
    return ("ok" if sys.version_info >= (3, 11) else "fail"), found


def _packages() -> tuple[Verdict, str]:
    missing: list[str] = []
    wrong: list[str] = []
    for name in _NEEDED:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    with contextlib.suppress(metadata.PackageNotFoundError):  # not installed: source folder
        wrong = _conflicts("packflow-csp")
    if missing:
        return "fail", f"not installed: {', '.join(missing)}; pip install packflow-csp"
    if wrong:
        return "warn", f"other versions than tested: {', '.join(wrong)}"
    return "ok", f"all {len(_NEEDED)} of the main job"


def _conflicts(distribution: str) -> list[str]:
    """Requirements of a distribution that the installed versions do not meet."""
    from packaging.requirements import Requirement

    found = []
    for text in metadata.requires(distribution) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = metadata.version(requirement.name)
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
    return found


def _processors() -> tuple[Verdict, str]:
    from packflow_core.devices import usable_cpus

    return "ok", f"{usable_cpus()} usable of {os.cpu_count()}: so many workers by default"


def _memory() -> tuple[Verdict, str]:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return "ok", "unknown on this system"
    return ("ok" if total >= _LOW_MEMORY_GB else "warn"), f"{total:.1f} GB"


def _disk() -> tuple[Verdict, str]:
    return doctor_sites.disk(Path.cwd())


def _torch() -> tuple[Verdict, str]:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU, on the CPU"
    return "ok", f"{torch.__version__}, {device}"


def _model() -> tuple[Verdict, str]:
    from packflow_core.model.checkpoint import DEFAULT_MODEL, load_model

    loaded = load_model(DEFAULT_MODEL)
    return "ok", f"{DEFAULT_MODEL}, sha256 {loaded.sha256[:12]}"


def _engine() -> tuple[Verdict, str]:
    from packflow_core.engines.registry import engine_identity
    from packflow_core.workers import WorkerPool

    identity = engine_identity("gfnff")
    with WorkerPool(1) as pool:
        for outcome in pool.map(trial_energy, [(0, ("gfnff",))], _ENGINE_TIMEOUT_S):
            if outcome.error is not None:
                return "fail", f"{identity}: {outcome.error}, {outcome.detail}"
            return "ok", f"{identity}; solid CO2: {outcome.value:.2f} eV in {outcome.wall_s:.1f} s"
    return "fail", "no answer"


def _xtb() -> tuple[Verdict, str]:
    from packflow_core.engines.registry import engine_identity

    return _missing("gfn1-xtb") or ("ok", engine_identity("gfn1-xtb"))


def _uma() -> tuple[Verdict, str]:
    from packflow_core.engines import uma_files

    missing = _missing(uma_files.NAMES[0])
    if missing is not None:
        return missing
    package = f"fairchem-core {metadata.version('fairchem-core')}"
    here = [name for name in uma_files.NAMES if uma_files.cached(name) is not None]
    if here:
        return "ok", f"{package}; weights on this machine: {', '.join(here)}"
    verdict, told = doctor_sites.uma_access(uma_files.NAMES[0], uma_files.REPOSITORY)
    if "opens" in told and verdict == "ok":
        return "ok", f"{package}; no weights on this machine yet, but {told}"
    return verdict, f"{package}; no weights on this machine yet; {told}: {uma_files.ACCESS}"


def _ase() -> tuple[Verdict, str]:
    from packflow_core.engines import factory, trust

    allowed = os.environ.get(trust.VARIABLE)
    elsewhere = f"{trust.VARIABLE}={allowed}" if allowed else f"none, {trust.VARIABLE} is not set"
    return "ok", f"any calculator as {factory.FORM}; allowed in deployments: {elsewhere}"


def _genarris() -> tuple[Verdict, str]:
    from packflow_core.baselines import genarris_program as program

    found = program.find_genarris()
    if found is None:
        return "ok", f"optional, not installed; {program.INSTALL}"
    if found.mpirun is None:
        return "warn", f"{found.identity} at {found.path}, but no mpirun; {program.INSTALL_MPI}"
    return "ok", f"{found.identity} at {found.path}, started by {found.mpirun}"


def _mpi() -> tuple[Verdict, str]:
    from packflow_core.mpi.launch import find_mpi

    return "ok", find_mpi()


def _missing(engine: str) -> tuple[Verdict, str] | None:
    """That an optional engine is not installed; None where it is."""
    from packflow_core.engines.registry import family_of, installed_version

    family = family_of(engine)
    if installed_version(family) is not None:
        return None
    return "ok", f"optional, not installed; {family.install}"


def trial_energy(engine: str) -> float:
    """Energy of a small crystal in eV: four molecules of CO2, cubic, 5.62 Å."""
    import numpy as np

    from packflow_core.crystal.crystal import Crystal
    from packflow_core.engines.registry import get_engine

    edge, bond = 5.624, 1.16
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) * edge
    axes = np.array([[1, 1, 1], [-1, 1, -1], [-1, -1, 1], [1, -1, -1]]) / np.sqrt(3.0)
    positions = np.concatenate(
        [
            [site, site + bond * axis, site - bond * axis]
            for site, axis in zip(sites, axes, strict=True)
        ]
    )
    crystal = Crystal(np.tile([6, 8, 8], 4), positions, np.eye(3) * edge, 4)
    return float(get_engine(engine).evaluate([crystal]).energies[0])


def _prefect() -> tuple[Verdict, str]:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return "ok", f"{metadata.version('prefect')}; a temporary server is started with each run"
    return doctor_sites.prefect_server(url)


def _dask() -> tuple[Verdict, str]:
    return doctor_sites.optional("prefect-dask", "prefect_dask", "pip install 'packflow-csp[dask]'")
