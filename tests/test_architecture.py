"""The direction of imports: flows -> tasks -> packflow_core, and no Prefect in the core."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Top-level packages that a layer must not import.
FORBIDDEN = {
    "packflow_core": {"prefect", "flows", "tasks", "dashboard", "amd"},
    "tasks": {"flows", "dashboard", "amd"},
    "flows": {"amd"},
    "dashboard": {"flows", "tasks", "amd"},
}
#: Packages of the core that know each other's insides from one side only.
FORBIDDEN_INSIDE = {
    "baselines": {"model", "training", "engines", "relax", "race", "mpi"},
    "mpi": {"model", "training", "engines", "relax", "race"},
    "evaluation": {"training", "race", "mpi", "engines", "relax"},
    "race": {"model", "training"},
    "model": {"training", "stages", "engines", "relax", "analysis", "store"},
    "crystal": {"model", "training", "stages", "engines", "relax", "analysis", "store"},
    "engines": {"model", "training", "stages", "relax", "analysis"},
    "relax": {"model", "training", "stages", "analysis"},
    "analysis": {"model", "training", "stages", "engines", "relax"},
    "align": {"race", "evaluation"},
    "trust": {"model", "training", "baselines", "mpi", "race", "evaluation"},
    "store": {"model", "training", "stages", "engines", "relax", "analysis"},
}


def imported(path):
    """Absolute names of modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_arrows_point_down(layer):
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        wrong = {name.split(".")[0] for name in imported(path)} & FORBIDDEN[layer]
        assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize("package", FORBIDDEN_INSIDE)
def test_core_packages_keep_their_distance(package):
    for path in (ROOT / "packflow_core" / package).rglob("*.py"):
        parts = {tuple(name.split(".")[:2]) for name in imported(path)}
        wrong = {p for p in FORBIDDEN_INSIDE[package] if ("packflow_core", p) in parts}
        assert not wrong, f"{path} imports {wrong}"
