"""UMA through the real loading path, with tiny random checkpoints instead of the gated weights."""

import hashlib
import http.server
import logging
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_uma
from scipy.spatial.transform import Rotation

pytest.importorskip("fairchem.core", exc_type=ImportError)

import torch

from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.engines import registry, uma, uma_files
from packflow_core.engines.base import EngineError, EngineMemoryError, boxed
from packflow_core.engines.memory import MemoryMeter
from packflow_core.engines.uma import UMAEngine
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("uma")


@pytest.fixture(scope="module")
def tiny(folder):
    return tiny_uma.build(folder / "tiny.pt")


@pytest.fixture(scope="module")
def engine(tiny):
    return UMAEngine(f"uma:{tiny}")


def shaken(name, reps=(1, 1, 1), seed=0):
    crystal = read_cif(DATA / f"{name}.cif").repeated(reps)
    noise = np.random.default_rng(seed).normal(0, 0.05, crystal.positions.shape)
    return crystal.with_positions(crystal.positions + noise)


def tilted():
    """Urea in a cell without any symmetry, molecules across its borders."""
    source = read_cif(DATA / "urea.cif")
    cell = np.array([[6.2, 0.3, -0.2], [1.5, 6.0, 0.4], [-1.2, 1.1, 6.4]])
    molecule = source.positions[:8] - source.positions[:8].mean(axis=0)
    turns = Rotation.random(2, random_state=1).as_matrix()
    places = np.array([[[-9.1, 20.2, 0.3]], [[-5.9, 23.1, 3.6]]])
    return Crystal(source.numbers[:16], (molecule @ turns + places).reshape(-1, 3), cell, 2)


def parts(result, index):
    return result.energies[index], result.forces_of(index), result.stress[index]


def differences(one, other):
    return [float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)]


def reference(path, crystals, merge):
    """What fairchem's own ASE calculator says, with a model of its own for each crystal."""
    from fairchem.core import FAIRChemCalculator
    from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit

    settings = InferenceSettings(activation_checkpointing=False, merge_mole=merge)
    found = []
    for crystal in crystals:
        unit = load_predict_unit(str(path), inference_settings=settings, device="cpu")
        atoms = crystal.to_ase()
        atoms.calc = FAIRChemCalculator(unit, task_name="omc")
        found.append(
            (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))
        )
    return found


def with_model_of(engine, crystal, composition):
    """Forces on a crystal by the weights that were merged for a composition."""
    # fairchem itself would notice, and unmerge them.
    model = engine._model(composition)
    backbone = model.model.module.backbone
    check, backbone.on_predict_check = backbone.on_predict_check, lambda data: None
    try:
        found = engine._predict(model, [(crystal.numbers, crystal.positions, crystal.cell)])
    finally:
        backbone.on_predict_check = check
    return found[0][1]


# -- numbers -----------------------------------------------------------------------------------
def test_forces_and_stress_are_derivatives_of_the_energy(tiny):
    exact = UMAEngine(f"uma:{tiny}", precision="float64")
    crystal = tilted()
    result = exact.evaluate([crystal])
    forces, stress = result.forces, result.stress[0]
    assert np.abs(forces).max() > 0.05
    assert np.abs(stress).max() > 1e-3
    assert np.abs(stress[0, 1]) > 1e-6

    def energy(positions, cell):
        return exact.evaluate([crystal.with_positions(positions, cell)]).energies[0]

    h = 1e-4
    for atom, axis in ((0, 0), (3, 1), (5, 2), (9, 0), (12, 2)):
        step = np.zeros_like(crystal.positions)
        step[atom, axis] = h
        slope = energy(crystal.positions + step, crystal.cell)
        slope -= energy(crystal.positions - step, crystal.cell)
        assert -slope / (2 * h) == pytest.approx(forces[atom, axis], abs=1e-7)
    for i in range(3):
        for j in range(i, 3):
            ends = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[i, j] += sign * h / 2
                strain[j, i] += sign * h / 2
                ends.append(energy(crystal.positions @ strain, crystal.cell @ strain))
            slope = (ends[0] - ends[1]) / (2 * h * crystal.volume)
            assert slope == pytest.approx(stress[i, j], abs=1e-8)
    np.testing.assert_array_equal(stress, stress.T)


def test_single_precision_is_close_to_double(tiny, engine):
    crystals = [tilted(), shaken("benzene")]
    exact = UMAEngine(f"uma:{tiny}", precision="float64")
    for crystal in crystals:
        found = differences(
            parts(engine.evaluate([crystal]), 0), parts(exact.evaluate([crystal]), 0)
        )
        assert max(found) < 2e-4
        assert max(found[1:]) < 1e-5


@pytest.mark.parametrize("together", [False, True])
def test_numbers_are_those_of_fairchems_own_calculator(tiny, together):
    crystals = [tilted(), shaken("urea"), shaken("urea", (1, 2, 1)), shaken("benzene")]
    result = UMAEngine(f"uma:{tiny}", together=together).evaluate(crystals)
    for k, expected in enumerate(reference(tiny, crystals, merge=True)):
        energy, forces, stress = differences(parts(result, k), expected)
        assert energy < 1e-4  # of some hundred eV, in single precision
        assert forces < 2e-6
        assert stress < 1e-7


def test_merging_changes_no_number(tiny, engine):
    crystals = [shaken("urea"), shaken("urea", (1, 2, 1))]
    result = engine.evaluate(crystals)
    for k, expected in enumerate(reference(tiny, crystals, merge=False)):
        assert differences(parts(result, k), expected)[1] < 5e-6
    # It matters: the model of another composition gives other forces.
    other = engine.prepare(read_cif(DATA / "benzene.cif")).composition
    assert np.abs(with_model_of(engine, crystals[0], other) - result.forces_of(0)).max() > 1e-3


def test_the_generation_that_counts_atoms_has_a_model_for_every_size(folder):
    path = tiny_uma.build(folder / "counts.pt", model_id="UMA-S-1.2")
    crystals = [shaken("urea"), shaken("urea", (1, 2, 1))]
    both = UMAEngine(f"uma:{path}")
    result = both.evaluate(crystals)
    for k, expected in enumerate(reference(path, crystals, merge=False)):
        assert differences(parts(result, k), expected)[1] < 5e-6
    compositions = [both.prepare(crystal).composition for crystal in crystals]
    assert compositions == [
        ((1, 8), (6, 2), (7, 4), (8, 2)),
        ((1, 16), (6, 4), (7, 8), (8, 4)),
    ]
    # It matters: the model of the small cell gives the large one other forces.
    assert (
        np.abs(with_model_of(both, crystals[1], compositions[0]) - result.forces_of(1)).max() > 5e-5
    )


# -- batches -----------------------------------------------------------------------------------
def mixed():
    return [
        shaken("urea"), shaken("benzene"), shaken("urea", (1, 2, 1), 1), tilted(),
        shaken("urea", (1, 1, 2), 2), shaken("benzene", seed=3),
    ]  # fmt: skip


def test_on_the_cpu_batch_mates_change_nothing_at_all(tiny, engine):
    crystals = mixed()
    batch = engine.evaluate(crystals)
    alone = UMAEngine(f"uma:{tiny}")  # another engine, and the other way round
    for k in reversed(range(len(crystals))):
        assert differences(parts(alone.evaluate([crystals[k]]), 0), parts(batch, k)) == [0, 0, 0]


def test_together_batch_mates_change_rounding_alone(tiny):
    crystals = mixed()
    together = UMAEngine(f"uma:{tiny}", together=True)
    batch = together.evaluate(crystals)
    for k, crystal in enumerate(crystals):
        energy, forces, stress = differences(
            parts(together.evaluate([crystal]), 0), parts(batch, k)
        )
        assert energy < 1e-4
        assert forces < 2e-6
        assert stress < 1e-7


def test_crystals_of_one_composition_share_one_call(tiny, monkeypatch):
    together = UMAEngine(f"uma:{tiny}", together=True)
    together.evaluate(mixed())
    calls = []
    predict = UMAEngine._predict

    def counting(self, model, systems):
        calls.append(len(systems))
        return predict(self, model, systems)

    monkeypatch.setattr(UMAEngine, "_predict", counting)
    together.evaluate(mixed())
    assert calls == [4, 2]


def test_another_composition_does_not_unmerge_the_first(tiny):
    one = UMAEngine(f"uma:{tiny}")
    before = one.evaluate([shaken("urea")])
    one.evaluate([shaken("benzene")])
    after = one.evaluate([shaken("urea")])
    assert differences(parts(before, 0), parts(after, 0)) == [0, 0, 0]
    assert len(one._models) == 2
    for model in one._models.values():
        assert model.inference_settings.merge_mole
        assert type(model.model.module.backbone).__name__ == "eSCNMDBackbone"


def test_a_model_that_was_unmerged_is_never_used(tiny):
    one = UMAEngine(f"uma:{tiny}")
    urea, benzene = shaken("urea"), shaken("benzene")
    one.evaluate([urea])
    one._models[one.prepare(benzene).composition] = one._models[one.prepare(urea).composition]
    with pytest.raises(RuntimeError, match="unmerged"):
        one.evaluate([benzene])


def test_few_models_are_kept(tiny, engine, monkeypatch):
    monkeypatch.setattr(uma, "MAX_MODELS", 1)
    one = UMAEngine(f"uma:{tiny}")
    for crystal in (shaken("urea"), shaken("benzene"), shaken("urea")):
        result = one.evaluate([crystal])
        assert len(one._models) == 1
        assert differences(parts(result, 0), parts(engine.evaluate([crystal]), 0)) == [0, 0, 0]


def test_a_molecule_in_a_box(engine):
    urea = read_cif(DATA / "urea.cif")
    single = boxed(urea.numbers[:8], urea.positions[:8])
    wide = boxed(urea.numbers[:8], urea.positions[:8], box=40.0)
    found = differences(parts(engine.evaluate([single]), 0), parts(engine.evaluate([wide]), 0))
    assert max(found[:2]) < 1e-5


def test_images_and_translation_change_nothing(engine):
    crystal = tilted()
    hops = np.repeat([[3, -2, 1], [-1, 0, 4]], 8, axis=0) @ crystal.cell
    moved = crystal.with_positions(crystal.positions + hops + [0.3, 0.1, -0.7])
    found = differences(parts(engine.evaluate([crystal]), 0), parts(engine.evaluate([moved]), 0))
    assert max(found) < 1e-4
    assert max(found[1:]) < 1e-5


# -- faults ------------------------------------------------------------------------------------
def compute(engine, crystals, cells=None, positions=None):
    return engine.compute(
        [engine.prepare(crystal) for crystal in crystals],
        np.concatenate([c.positions for c in crystals]) if positions is None else positions,
        np.stack([c.cell for c in crystals]) if cells is None else cells,
        np.array([len(crystal) for crystal in crystals]),
    )


@pytest.mark.parametrize("together", [False, True])
def test_a_bad_crystal_leaves_the_others_alone(tiny, together):
    one = UMAEngine(f"uma:{tiny}", together=together)
    crystals = [shaken("urea", seed=seed) for seed in range(5)]
    cells = np.stack([crystal.cell for crystal in crystals])
    cells[1, 2] *= 0.1
    cells[2] = -cells[2]
    cells[3] = np.nan
    result = compute(one, crystals, cells)
    assert {k: error.reason for k, error in result.errors.items()} == {
        1: Reason.BAD_CELL, 2: Reason.BAD_CELL, 3: Reason.NAN,
    }  # fmt: skip
    assert np.isnan(result.energies[[1, 2, 3]]).all()
    for k in (0, 4):
        assert differences(parts(result, k), parts(one.evaluate([crystals[k]]), 0))[1] < 2e-6


def test_answers_that_are_no_numbers_are_errors_of_the_crystal(folder):
    one = UMAEngine(f"uma:{tiny_uma.build(folder / 'nan.pt', nan=True)}")
    result = compute(one, [shaken("urea"), shaken("benzene")])
    assert [result.errors[k].reason for k in (0, 1)] == [Reason.NAN, Reason.NAN]
    with pytest.raises(EngineError):
        one.evaluate([shaken("urea")])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_is_told_apart(tiny, error, monkeypatch):
    one = UMAEngine(f"uma:{tiny}")
    expected = one.evaluate([shaken("urea")])
    (model,) = one._models.values()

    def fail(batch):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model, "predict", fail)
        with pytest.raises(EngineMemoryError, match="16 atoms in one call"):
            one.evaluate([shaken("urea")])
    again = one.evaluate([shaken("urea")])
    assert differences(parts(again, 0), parts(expected, 0)) == [0, 0, 0]


def test_a_broken_gpu_is_not_mistaken_for_a_bad_crystal(tiny, monkeypatch):
    one = UMAEngine(f"uma:{tiny}")
    one.evaluate([shaken("urea")])
    (model,) = one._models.values()

    def fail(batch):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(model, "predict", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        one.evaluate([shaken("urea")])


def test_the_library_does_not_talk_or_set_up_logging(tiny, caplog):
    with caplog.at_level(logging.DEBUG):
        UMAEngine(f"uma:{tiny}").evaluate([shaken("urea")])
    assert [record for record in caplog.records if "fairchem" in record.pathname] == []
    logging.getLogger().warning("still heard")
    assert "still heard" in caplog.text


def test_random_numbers_of_others_stay_as_they_are(tiny):
    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    def seed():
        torch.manual_seed(5), np.random.seed(5), random.seed(5)

    seed()
    expected = draw()
    seed()
    one = UMAEngine(f"uma:{tiny}")
    first = one.evaluate([shaken("urea")])
    assert draw() == expected
    # Nor do they change the engine's: the frames of its bonds are random.
    again = one.evaluate([shaken("urea")])
    assert differences(parts(again, 0), parts(first, 0)) == [0, 0, 0]


# -- memory ------------------------------------------------------------------------------------
def test_a_call_holds_what_the_memory_allows(monkeypatch):
    monkeypatch.setattr("packflow_core.engines.memory.free_system_memory", lambda: 8_000_000)
    assert MemoryMeter("cpu", bytes_per_atom=1e5, max_atoms=100).atoms() == 20
    assert MemoryMeter("cpu", bytes_per_atom=1e3, max_atoms=100).atoms() == 100
    assert MemoryMeter("cpu", bytes_per_atom=1e9, max_atoms=100).atoms() == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_numbers_of_the_cpu(tiny, engine):
    gpu = UMAEngine(f"uma:{tiny}", "cuda")
    assert gpu.device.startswith("cuda:0 (")
    crystals = mixed()
    before = gpu.atoms_per_call()
    batch, expected = gpu.evaluate(crystals), engine.evaluate(crystals)
    for k in range(len(crystals)):
        energy, forces, stress = differences(parts(batch, k), parts(expected, k))
        assert energy < 1e-3
        assert forces < 1e-4
        assert stress < 1e-5
    assert gpu.atoms_per_call() > before  # the tiny model takes less than was assumed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told(tiny):
    with pytest.raises(UserInputError, match="sees none"):
        UMAEngine(f"uma:{tiny}", "cuda")


# -- files -------------------------------------------------------------------------------------
def test_the_identity_knows_the_weights(tiny, folder, engine):
    digits = hashlib.sha256(tiny.read_bytes()).hexdigest()[:16]
    assert digits in registry.engine_identity(f"uma:{tiny}")
    assert engine.identity["sha256"] == digits
    other = tiny_uma.build(folder / "other.pt", seed=1)
    assert registry.engine_identity(f"uma:{other}") != registry.engine_identity(f"uma:{tiny}")
    # A file is what is in it, not where it lies.
    (folder / "copy").mkdir()
    copy = folder / "copy" / tiny.name
    copy.write_bytes(tiny.read_bytes())
    assert registry.engine_identity(f"uma:{copy}") == registry.engine_identity(f"uma:{tiny}")


def test_the_registry_makes_it(tiny, monkeypatch):
    name = f"uma:{tiny}"
    assert registry.get_engine(name) is registry.get_engine(name)
    assert registry.get_engine(name).device == "cpu"
    assert registry.engine_traits(name) == (True, True)


def test_files_that_are_no_checkpoints(folder, tiny):
    cut = folder / "cut.pt"
    cut.write_bytes(tiny.read_bytes()[:5000])
    other = folder / "weights.pt"
    torch.save({"weights": torch.zeros(3)}, other)
    text = folder / "text.pt"
    text.write_text("no weights")
    for path in (cut, other, text):
        with pytest.raises(UserInputError, match=f"'{path}' is no UMA checkpoint") as caught:
            UMAEngine(f"uma:{path}")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserInputError, match="There is no checkpoint"):
        UMAEngine(f"uma:{folder / 'nowhere.pt'}")
    with pytest.raises(UserInputError, match="There is no checkpoint"):
        registry.engine_identity(f"uma:{folder}")
    with pytest.raises(UserInputError, match="gives no file"):
        UMAEngine("uma:")


def test_a_checkpoint_without_molecular_crystals(folder):
    path = tiny_uma.build(folder / "omol.pt", datasets=("omat", "omol"))
    with pytest.raises(UserInputError, match=r"for the task 'omc' \(its tasks: omat, omol\)"):
        UMAEngine(f"uma:{path}")


# -- the download ------------------------------------------------------------------------------
def test_names_are_where_fairchem_looks_for_them():
    from fairchem.core.calculate import pretrained_mlip

    for name in uma_files.NAMES:
        known = pretrained_mlip._MODEL_CKPTS.checkpoints[name]
        assert (known.repo_id, known.subfolder) == (uma_files.REPOSITORY, uma_files.FOLDER)
        assert (known.filename, known.revision) == (f"{name}.pt", None)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of Hugging Face as a download needs; without a token it refuses."""

    content = b""

    def do_HEAD(self):
        self.reply(b"")

    def do_GET(self):
        self.reply(self.content)

    def reply(self, body):
        if self.headers.get("Authorization") != "Bearer hf_good":
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0123456789" * 4)
        self.send_header("ETag", '"' + hashlib.sha256(self.content).hexdigest() + '"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tiny):
    Hub.content = tiny.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def fetch(cache, **environment):
    """Fetch weights in a process of its own: the Hub's library reads its settings when imported."""
    code = (
        "from packflow_core.engines.registry import fetch_engine\n"
        "from packflow_core.engines.uma_files import cached\n"
        "from packflow_core.errors import UserInputError\n"
        "try:\n    fetch_engine('uma-s-1p1')\n    print(cached('uma-s-1p1'))\n"
        "except UserInputError as error:\n    print(error)\n"
    )
    settings = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))
    }
    settings |= {"FAIRCHEM_CACHE_DIR": str(cache), "HF_HOME": str(cache / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=settings | environment, capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return done.stdout.strip()


ACCESS = ("accept the licence at https://huggingface.co/facebook/UMA", "HF_TOKEN", "uma:/path/to")


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "cannot be downloaded (ConnectError"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
        ({}, "is gated, and Hugging Face refused access"),
        ({"HF_TOKEN": "hf_bad"}, "is gated, and Hugging Face refused access"),
    ],
)
def test_weights_that_cannot_be_had(tmp_path, hub, environment, problem):
    said = fetch(tmp_path, **{"HF_ENDPOINT": hub} | environment)
    assert "\n" not in said
    assert problem in said
    for words in ACCESS:
        assert words in said


def test_weights_are_downloaded_once_and_then_need_no_network(tmp_path, hub, tiny, monkeypatch):
    path = Path(fetch(tmp_path, HF_ENDPOINT=hub, HF_TOKEN="hf_good"))
    assert path.read_bytes() == tiny.read_bytes()
    assert fetch(tmp_path, HF_ENDPOINT="http://127.0.0.1:1") == str(path)
    assert fetch(tmp_path, HF_HUB_OFFLINE="1") == str(path)
    monkeypatch.setenv("FAIRCHEM_CACHE_DIR", str(tmp_path))
    engine = UMAEngine("uma-s-1p1")
    assert engine.identity["engine"] == "uma-s-1p1"
    assert engine.identity["sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()[:16]
    assert np.isfinite(engine.evaluate([shaken("urea")]).energies).all()


def test_a_missing_package_is_told_in_one_sentence(monkeypatch, tiny):
    monkeypatch.setattr(uma.util, "find_spec", lambda name: None)
    with pytest.raises(UserInputError, match=r"needs the package fairchem-core; install it with"):
        UMAEngine(f"uma:{tiny}")
