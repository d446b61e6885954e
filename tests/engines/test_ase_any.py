import re
from importlib import metadata
from pathlib import Path

import numpy as np
import odd_calculators
import pytest
from ase.calculators.lj import LennardJones

from packflow_core.crystal.cif import read_cif
from packflow_core.engines import factory, registry
from packflow_core.engines.ase_any import AnyASEEngine
from packflow_core.engines.base import EngineError, EngineMemoryError
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

DATA = Path(__file__).parents[1] / "data"
LJ = "ase:odd_calculators:lennard_jones"


@pytest.fixture
def urea():
    return read_cif(DATA / "urea.cif")


@pytest.fixture
def benzene():
    return read_cif(DATA / "benzene.cif")


# -- numbers -----------------------------------------------------------------------------------
def test_numbers_are_those_of_the_calculator(urea, benzene):
    engine = AnyASEEngine(f"{LJ}?sigma=2.5&epsilon=0.02")
    result = engine.evaluate([urea, benzene])
    for k, crystal in enumerate((urea, benzene)):
        atoms = crystal.to_ase()
        atoms.calc = LennardJones(sigma=2.5, epsilon=0.02, rc=9.0, smooth=True)
        assert result.energies[k] == atoms.get_potential_energy()
        np.testing.assert_array_equal(result.forces_of(k), atoms.get_forces())
        np.testing.assert_array_equal(result.stress[k], atoms.get_stress(voigt=False))
        assert np.abs(result.stress[k]).max() > 1e-3


def test_geometries_follow_from_call_to_call(urea):
    engine = AnyASEEngine(LJ)
    system = engine.prepare(urea)
    found = []
    for scale in (1.0, 1.1, 1.0):
        found.append(system.compute(urea.positions * scale, urea.cell * scale))
    assert found[0][0] != found[1][0]
    for first, last in zip(found[0], found[2], strict=True):
        np.testing.assert_array_equal(first, last)


def test_the_energy_is_the_one_that_forces_belong_to(urea):
    result = AnyASEEngine("ase:odd_calculators:Full").evaluate([urea])
    assert result.energies[0] == -2.0
    # A full matrix is symmetrised.
    assert result.stress[0].tolist() == [[0, 2, 4], [2, 4, 6], [4, 6, 8]]


def test_voigt_stress_and_old_calculators(urea):
    result = AnyASEEngine("ase:odd_calculators:OldFashioned").evaluate([urea])
    assert result.energies[0] == 16.0
    assert result.stress[0].tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    assert result.forces.shape == (16, 3)


def test_a_calculator_cannot_move_our_atoms(urea):
    positions, cell = urea.positions.copy(), urea.cell.copy()
    AnyASEEngine("ase:odd_calculators:Odd?wrong=moves%20atoms").evaluate([urea])
    np.testing.assert_array_equal(urea.positions, positions)
    np.testing.assert_array_equal(urea.cell, cell)


# -- calculators -------------------------------------------------------------------------------
def test_every_crystal_has_a_calculator_of_its_own(urea):
    odd_calculators.made.clear()
    engine = AnyASEEngine(f"{LJ}?sigma=2.0")
    systems = [engine.prepare(urea) for _ in range(3)]
    assert len({id(system._calculator) for system in systems}) == 3
    assert odd_calculators.made == [2.0, 2.0, 2.0]
    assert not engine.remembers


def test_unless_the_factory_shares_one(urea):
    odd_calculators.made.clear()
    engine = AnyASEEngine("ase:odd_calculators:shared?sigma=2.0")
    systems = [engine.prepare(urea) for _ in range(3)]
    assert len({id(system._calculator) for system in systems}) == 1
    assert odd_calculators.made == [2.0]
    assert engine.remembers


def test_a_factory_that_fails_later_costs_one_crystal(urea):
    odd_calculators.made.clear()
    engine = AnyASEEngine("ase:odd_calculators:once")
    engine.prepare(urea)
    with pytest.raises(EngineError, match="no more of them") as caught:
        engine.prepare(urea)
    assert caught.value.reason == Reason.ENGINE


# -- bad answers -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        ("wrong=raises", Reason.ENGINE, "Odd: ArithmeticError: the density diverged"),
        ("wrong=scf", Reason.SCF, "no convergence"),
        ("wrong=flat%20forces", Reason.ENGINE, "forces of shape (48,) instead of (16, 3)"),
        ("forces=[[0,0,0]]", Reason.ENGINE, "forces of shape (1, 3) instead of (16, 3)"),
        ("stress=[1,2,3]", Reason.ENGINE, "stress of shape (3,) instead of (6,) or (3, 3)"),
        ("energy=[1,2]", Reason.ENGINE, "energy of shape (2,) instead of one number"),
        ("energy=lots", Reason.ENGINE, "energy is a str, not numbers"),
        ("energy=NaN", Reason.NAN, "1 of 1 numbers of energy () are not finite"),
        ("wrong=nan%20force", Reason.NAN, "1 of 48 numbers of forces (16, 3) are not finite"),
        ("stress=[1,2,3,Infinity,5,6]", Reason.NAN, "1 of 6 numbers of stress (6,)"),
    ],
)
def test_bad_answers_are_errors_of_the_crystal(arguments, reason, words, urea):
    engine = AnyASEEngine(f"ase:odd_calculators:Odd?{arguments}")
    good = AnyASEEngine("ase:odd_calculators:Odd")
    result = engine.compute(
        [engine.prepare(urea), good.prepare(urea)],
        np.concatenate([urea.positions] * 2), np.stack([urea.cell] * 2), np.array([16, 16]),
    )  # fmt: skip
    assert list(result.errors) == [0]
    assert result.errors[0].reason == reason
    assert words in result.errors[0].detail
    assert np.isnan(result.energies[0])
    assert result.energies[1] == -1.0


def test_a_promised_stress_that_is_missing(urea):
    engine = AnyASEEngine("ase:odd_calculators:LateNoStress")
    with pytest.raises(EngineError, match="stress") as caught:
        engine.evaluate([urea])
    assert caught.value.reason == Reason.ENGINE


def test_lack_of_memory_and_a_broken_gpu_are_no_faults_of_the_crystal(urea):
    with pytest.raises(EngineMemoryError):
        AnyASEEngine("ase:odd_calculators:Odd?wrong=memory").evaluate([urea])
    with pytest.raises(RuntimeError, match="device-side"):
        AnyASEEngine("ase:odd_calculators:Odd?wrong=gpu").evaluate([urea])


def test_a_calculator_that_set_up_a_gpu_is_not_on_the_cpu(urea, monkeypatch):
    # After a CUDA error such a process must not go on, and the device tells.
    torch = pytest.importorskip("torch")
    engine = AnyASEEngine("ase:odd_calculators:Odd")
    assert engine.device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    engine.prepare(urea)
    assert engine.device == "cuda"


# -- bad names ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ase:odd_calculators:NoStress", "gives no stress, without which"),
        ("ase:odd_calculators:nothing", "returned a NoneType without get_potential_energy"),
        ("ase:odd_calculators:broken", "failed (OSError: no such model)"),
        ("ase:odd_calculators:broken?depth=3", "its arguments were {'depth': 3}"),
        ("ase:odd_calculators:not_a_function", "is a int; the engine"),
        ("ase:odd_calculators:missing", "has no 'missing'"),
        ("ase:no_such_module_here:make", "cannot be imported (ModuleNotFoundError"),
        ("ase:odd_calculators", "must have the form ase:module:factory"),
        ("ase:odd_calculators:", "must have the form"),
        ("ase:a b:make", "must have the form"),
        ("ase:os:path.join", "must have the form"),
        ("ase:odd_calculators:Odd?wrong", "The argument 'wrong'"),
        ("ase:odd_calculators:Odd?a=1&a=2", "The argument 'a=2'"),
    ],
)
def test_bad_names_are_told_in_one_sentence(name, words):
    with pytest.raises(UserInputError, match=re.escape(words)) as caught:
        AnyASEEngine(name)
    assert "\n" not in str(caught.value)


def test_a_module_that_ends_the_process_when_imported(tmp_path, monkeypatch):
    (tmp_path / "a_script_of_mine.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserInputError, match="cannot be imported"):
        AnyASEEngine("ase:a_script_of_mine:make")


def test_arguments_are_json_or_text():
    parsed = factory.parse_factory(
        'ase:a.b:make?i=3&x=1e+5&flag=true&none=null&list=[1,"a"]&text=float32&quoted="4.5"'
        "&path=/a/b.pt&odd=a%26b%3Dc&empty="
    )
    assert (parsed.module, parsed.function, parsed.subject) == ("a.b", "make", "a.b:make")
    assert parsed.arguments == {
        "i": 3, "x": 1e5, "flag": True, "none": None, "list": [1, "a"], "text": "float32",
        "quoted": "4.5", "path": "/a/b.pt", "odd": "a&b=c", "empty": "",
    }  # fmt: skip


# -- identity ----------------------------------------------------------------------------------
def test_an_installed_module_is_known_by_its_version():
    name = "ase:ase.calculators.lj:LennardJones?sigma=3.4"
    version = metadata.version("ase")
    assert registry.engine_identity(name) == f"{name}/ase {version} (ase {version})"
    assert registry.get_engine(name).identity["module"] == f"ase {version}"


def test_a_module_of_ones_own_is_known_by_its_contents(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "my_own_engine.py"
    identities = []
    for number in (1, 2):
        # Importing it would fail: an identity is to be had without running anything.
        source.write_text(f"raise RuntimeError({number})\n")
        identities.append(registry.engine_identity("ase:my_own_engine:make"))
    assert identities[0] != identities[1]
    assert "my_own_engine.py sha256 " in identities[0]


def test_packages_above_a_module_are_not_imported_either(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("raise RuntimeError\n")
    (tmp_path / "my_package" / "inner.py").write_text("")
    assert "inner.py sha256" in registry.engine_identity("ase:my_package.inner:make")
    # A package that hides an installed one is not taken for it.
    (tmp_path / "ase").mkdir()
    (tmp_path / "ase" / "__init__.py").write_text("")
    assert "__init__.py sha256" in registry.engine_identity("ase:ase:make")


@pytest.mark.parametrize("module", ["no_such_module_here", "ase.no_such_module", "os.path.nope"])
def test_a_module_that_does_not_exist_is_told(module):
    with pytest.raises(UserInputError, match="add its folder to PYTHONPATH"):
        registry.engine_identity(f"ase:{module}:make")
