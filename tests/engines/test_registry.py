import subprocess
import sys
from importlib import metadata

import pytest

from packflow_core.engines import registry
from packflow_core.errors import UserInputError


def test_gfnff_is_known():
    engine = registry.get_engine("gfnff")
    assert engine.name == "gfnff"
    assert engine is registry.get_engine("gfnff")
    version = metadata.version("gfnff")
    assert registry.engine_identity("gfnff") == f"gfnff/mcgfnff2023 (gfnff {version})"
    assert engine.identity["gfnff"] == version
    assert engine.identity["version"] == "mcgfnff2023"


@pytest.mark.parametrize("ask", [registry.get_engine, registry.engine_identity])
def test_unknown_engines_are_refused_with_the_known_ones(ask):
    with pytest.raises(UserInputError, match=r"Unknown engine 'gfnf'; known engines: gfnff\."):
        ask("gfnf")


@pytest.mark.parametrize("ask", [registry.get_engine, registry.engine_identity])
def test_a_missing_package_is_told_with_the_remedy(ask, monkeypatch):
    def gone(name):
        raise metadata.PackageNotFoundError(name)

    registry.get_engine.cache_clear()
    monkeypatch.setattr(registry.metadata, "version", gone)
    with pytest.raises(UserInputError, match="pip install gfnff"):
        ask("gfnff")


def test_the_identity_loads_nothing_heavy():
    code = (
        "import sys; from packflow_core.engines.registry import engine_identity;"
        "engine_identity('gfnff'); print([m for m in ('gfnff', 'ase', 'torch', 'scipy')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
