"""A synthetic set: planned, made in blocks, interrupted, continued, read by the training."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from packflow_core.errors import UserInputError
from packflow_core.training import synthetic
from packflow_core.training.batches import BatchMaker, BatchPlan
from packflow_core.training.data import TrainingSet
from packflow_core.training.synthetic import SyntheticParams, planned_molecules, synthesise
from packflow_core.training.synthetic_crystals import CrystalParams
from packflow_core.training.synthetic_molecules import skeleton_keys
from packflow_core.training.synthetic_sources import open_molecules

TRAINING = ["CCOC(C)=O", "CNC(=O)c1ccncc1", "COc1ccccc1", "NC(N)=O", "O=C(NC1CCCC1)c1ccco1"]
PARAMS = SyntheticParams(
    molecules=5, crystals_per_molecule=2, max_heavy=12,
    crystals=CrystalParams(conformers=2, trials=2),
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK", 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "_BLOCK", 2)
        progress = synthesise(TRAINING, out, PARAMS)
    return out, progress


def arrays(path):
    with np.load(path / "train.npz") as file:
        return {name: file[name] for name in file.files}


def test_account_and_set_agree(whole):
    out, progress = whole
    data = TrainingSet.load(out / "train.npz")
    account = json.loads((out / "train.json").read_text())
    assert progress.complete
    assert progress.attempted == 10 == progress.made + sum(progress.failed.values())
    assert len(data) == progress.made == account["crystals"]["made"] >= 7
    assert account["molecules"]["training"] + account["molecules"]["new"] == 5
    each = {one["smiles"]: one for one in account["of_each_molecule"]}
    counts = np.bincount(data.molecule)
    assert counts.tolist() == [each[name]["made"] for name in data.smiles]
    assert account["settings"]["seed"] == 0
    assert account["versions"]["rdkit"]


def test_crystals_belong_to_their_molecules(whole):
    """Bonds of each molecule's graph are bonds in space, after blocks were joined."""
    data = TrainingSet.load(whole[0] / "train.npz")
    for k in range(len(data)):
        bonds = data.graphs[data.molecule[k]].bonds
        x = data.crystal(k)
        length = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1)
        assert ((length > 1.1) & (length < 1.65)).all()


def test_the_training_takes_it(whole):
    batch = BatchMaker(TrainingSet.load(whole[0] / "train.npz"), BatchPlan(atoms=64), 0)(0)
    assert torch.isfinite(batch.x0).all()
    assert batch.graph.mask.any()


def test_interrupted_and_continued_is_the_same(whole, tmp_path):
    def interrupt(done, _of):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(TRAINING, tmp_path, PARAMS, on_block=interrupt)
    assert len(list((tmp_path / "blocks").glob("block-*.npz"))) == 1
    part = synthesise(TRAINING, tmp_path, PARAMS, time_limit=0.0, workers=2)
    assert (part.blocks, part.of, part.complete) == (1, 3, False)
    assert part.attempted == 4
    assert synthesise(TRAINING, tmp_path, PARAMS) == whole[1]
    ours, theirs = arrays(tmp_path), arrays(whole[0])
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])


def test_processes_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK", 1)
    small = PARAMS.model_copy(update={"molecules": 2, "training_share": 1.0})
    synthesise(TRAINING, tmp_path / "one", small)
    synthesise(TRAINING, tmp_path / "two", small, workers=2)
    for name, values in arrays(tmp_path / "one").items():
        np.testing.assert_array_equal(values, arrays(tmp_path / "two")[name])


def test_a_folder_keeps_to_its_settings(whole):
    other = PARAMS.model_copy(update={"seed": 1})
    with pytest.raises(UserInputError, match="other settings or molecules"):
        synthesise(TRAINING, whole[0], other)
    with pytest.raises(UserInputError, match="other settings or molecules"):
        synthesise(TRAINING, whole[0], PARAMS, avoid=["CCO"])


def test_molecules_kept_apart_are_never_made():
    """Neither as training molecules, nor as new ones, nor as other tautomers."""
    params = SyntheticParams(molecules=12, max_heavy=12)
    first, _ = planned_molecules(TRAINING, params)
    avoid = ["CNC(O)=C1C=CNC=C1", *first[-2:]]  # a tautomer of N-methylisonicotinamide
    second, account = planned_molecules(TRAINING, params, avoid)
    assert "CNC(=O)c1ccncc1" in first
    assert not skeleton_keys(second) & skeleton_keys(avoid)
    assert account["training_left_out"]["forbidden"] >= 1


def test_old_and_new_molecules_are_mixed_evenly():
    smiles, account = planned_molecules(TRAINING, SyntheticParams(molecules=8, max_heavy=14))
    assert (account["training"], account["new"]) == (4, 4)
    old = [name in TRAINING for name in smiles]
    assert [sum(old[k : k + 2]) for k in range(0, 8, 2)] == [1, 1, 1, 1]


def test_no_molecule_of_the_size_is_a_clear_error():
    with pytest.raises(UserInputError, match="30 to 40 heavy atoms"):
        planned_molecules(TRAINING, SyntheticParams(training_share=1, min_heavy=30, max_heavy=40))


def test_total_failure_is_a_clear_error(tmp_path):
    hopeless = PARAMS.model_copy(
        update={"molecules": 1, "crystals": CrystalParams(conformers=1, max_cell=1)}
    )
    with pytest.raises(UserInputError, match=r"None of 2 .*z: 2"):
        synthesise(TRAINING, tmp_path, hopeless)


def test_molecules_of_a_data_folder(tmp_path, whole):
    """Tables and prepared files are read, spellings made one, ions left out and counted."""
    rows = [("OCC", "train"), ("C(C)O", "train"), ("[Na+]", "train"), ("OC", "val"), ("CC", "test")]
    pd.DataFrame(rows, columns=["smiles", "split"]).to_parquet(tmp_path / "molecules.parquet")
    found = open_molecules(tmp_path)
    assert (found.training, found.avoid, found.unread) == (["CCO"], ["CC", "CO"], 1)
    prepared = TrainingSet.load(whole[0] / "train.npz")
    prepared.save(tmp_path / "val.npz")
    assert set(open_molecules(tmp_path).avoid) == {"CC", "CO", *prepared.smiles}
    with pytest.raises(UserInputError, match="no training molecules"):
        open_molecules(tmp_path / "nothing")
