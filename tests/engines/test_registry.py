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
    assert registry.engine_traits("gfnff") == registry.EngineTraits(batched=False, gpu=False)


def test_every_engine_has_a_name():
    assert registry.engine_names() == (
        "gfnff", "gfn1-xtb", "gfn2-xtb", "uma-s-1p2p1", "uma-s-1p2", "uma-s-1p1", "uma-m-1p1",
        "uma:/path/to/checkpoint.pt", "springs", "ase:module:factory?argument=value&...",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "batched", "gpu"),
    [
        ("gfn1-xtb", False, False),
        ("uma-s-1p1", True, True),
        ("uma:/no/such/file.pt", True, True),
        ("springs", True, True),
        ("ase:no_such_module:make", False, False),
    ],
)
def test_traits(name, batched, gpu):
    assert registry.engine_traits(name) == registry.EngineTraits(batched, gpu)


ASK = [
    registry.get_engine, registry.engine_identity, registry.engine_traits, registry.fetch_engine,
]  # fmt: skip


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("name", ["gfnf", "", "uma", "uma-s-1p1 ", "GFNFF", "ase"])
def test_unknown_engines_are_refused_with_the_known_ones(ask, name):
    with pytest.raises(UserInputError, match=f"Unknown engine '{name}'; known engines: gfnff, "):
        ask(name)


@pytest.mark.parametrize("ask", [registry.get_engine, registry.engine_identity])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("gfnff", "pip install gfnff"),
        ("gfn2-xtb", r"pip install 'packflow-csp\[xtb\]'"),
        ("uma-s-1p1", r"pip install 'packflow-csp\[uma\]'"),
        ("uma:/some/file.pt", r"pip install 'packflow-csp\[uma\]'"),
    ],
)
def test_a_missing_package_is_told_with_the_remedy(ask, name, remedy, monkeypatch):
    def gone(package):
        raise metadata.PackageNotFoundError(package)

    registry._engine.cache_clear()
    monkeypatch.setattr(registry.metadata, "version", gone)
    with pytest.raises(UserInputError, match=remedy):
        ask(name)


def test_the_device_is_that_of_the_environment(monkeypatch):
    made = []

    def make(name, device):
        made.append((name, device))
        return object()

    family = registry.EngineFamily(("fake",), "numpy", "", "", make)
    monkeypatch.setattr(registry, "FAMILIES", (family,))
    monkeypatch.delenv("PACKFLOW_DEVICE", raising=False)
    first = registry.get_engine("fake")
    monkeypatch.setenv("PACKFLOW_DEVICE", "cuda")
    assert registry.get_engine("fake") is not first
    monkeypatch.setenv("PACKFLOW_DEVICE", "cpu")
    assert registry.get_engine("fake") is first
    assert made == [("fake", "cpu"), ("fake", "cuda")]
    monkeypatch.setenv("PACKFLOW_DEVICE", "gpu0")
    with pytest.raises(UserInputError, match="PACKFLOW_DEVICE is 'gpu0'"):
        registry.get_engine("fake")


def test_springs_has_the_label_of_its_module():
    springs = pytest.importorskip("packflow_core.engines.springs")
    assert f"springs/{springs.VERSION} (torch" in registry.engine_identity("springs")
    assert registry.get_engine("springs").name == "springs"


def test_what_an_engine_needs_is_fetched(monkeypatch):
    fetched = []
    family = registry.EngineFamily(
        ("fake",), "numpy", "", "", lambda name, device: object(), fetch=fetched.append
    )
    monkeypatch.setattr(registry, "FAMILIES", (family,))
    registry.fetch_engine("fake")
    assert fetched == ["fake"]


@pytest.mark.parametrize(
    "name", ["gfnff", "gfn1-xtb", "uma-s-1p1", "springs", "ase:ase.calculators.lj:LennardJones"]
)
def test_the_identity_loads_nothing_heavy(name):
    heavy = ("gfnff", "ase", "torch", "scipy", "numpy", "tblite", "fairchem", "huggingface_hub")
    code = (
        "import sys; from packflow_core.engines.registry import engine_identity, engine_traits\n"
        "from packflow_core.errors import UserInputError\n"
        f"engine_traits({name!r})\n"
        f"try: engine_identity({name!r})\nexcept UserInputError: pass\n"  # not installed
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
