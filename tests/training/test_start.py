"""Trainings that begin with the weights of a checkpoint."""

import pytest
import torch

from packflow_core.errors import UserInputError
from packflow_core.model.zoo import sha256_of
from packflow_core.training.data import prepare
from packflow_core.training.pretrain import MODEL_FILE, Trainer, TrainParams
from packflow_core.training.start import load_start

SHAPE = {"d_model": 16, "nhead": 2, "num_layers": 1, "dim_feedforward": 16}
PARAMS = TrainParams(steps=3, warmup=0, cooldown=0, atoms=64, bf16=False, **SHAPE)


@pytest.fixture(scope="module")
def data(tables):
    return prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train")


@pytest.fixture
def first(data, tmp_path):
    """Checkpoint of a short training."""
    Trainer(PARAMS, data, data, tmp_path / "first").run()
    return tmp_path / "first" / MODEL_FILE


def test_it_begins_with_the_weights_and_nothing_else(data, tmp_path, first):
    start = load_start(str(first))
    trainer = Trainer(PARAMS, data, data, tmp_path / "next", start=start)
    assert trainer.step == 0
    assert not trainer.optimizer.state
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, start.weights[name]), name
        assert torch.equal(value, trainer.averaged[name]), name
    trainer.run()
    record = load_start(str(tmp_path / "next" / MODEL_FILE)).record
    again = Trainer(PARAMS, data, data, tmp_path / "next", start=start)
    assert again.step == 3
    assert again.start == {"name": MODEL_FILE, "sha256": sha256_of(first)}
    assert record["sha256"] != again.start["sha256"]


def test_the_folder_remembers_its_start(data, tmp_path, first):
    Trainer(PARAMS, data, data, tmp_path / "next", start=load_start(str(first))).run()
    continued = Trainer(PARAMS, data, data, tmp_path / "next")
    assert continued.start is not None
    assert continued.start["sha256"] == sha256_of(first)
    other = load_start(str(tmp_path / "next" / MODEL_FILE))
    with pytest.raises(UserInputError, match="began with model"):
        Trainer(PARAMS, data, data, tmp_path / "next", start=other)
    with pytest.raises(UserInputError, match="did not begin with a checkpoint"):
        Trainer(PARAMS, data, data, tmp_path / "first", start=other)


def test_another_network_gets_a_sentence(data, tmp_path, first):
    wide = PARAMS.model_copy(update={"d_model": 32})
    with pytest.raises(UserInputError, match="d_model=16"):
        Trainer(wide, data, data, tmp_path / "wide", start=load_start(str(first)))
    official = TrainParams(architecture="official", **SHAPE)
    with pytest.raises(UserInputError, match="choose --architecture open"):
        Trainer(official, data, data, tmp_path / "official", start=load_start(str(first)))


def test_other_data_are_refused_in_the_same_folder(data, tmp_path):
    facts = [{"share": 1.0, "digest": "a"}]
    Trainer(PARAMS, data, data, tmp_path, data_facts=facts).run(steps=1)
    with pytest.raises(UserInputError, match="other data"):
        Trainer(PARAMS, data, data, tmp_path, data_facts=[{"share": 1.0, "digest": "b"}])
