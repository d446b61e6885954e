"""Training: it learns, and an interrupted one is the unbroken one."""

import csv

import pytest
import torch

from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import load_model
from packflow_core.training.batches import BatchMaker, BatchPlan
from packflow_core.training.data import prepare
from packflow_core.training.pretrain import LOG_FILE, Trainer, TrainParams

PARAMS = TrainParams(
    steps=8, warmup=2, cooldown=2, atoms=64, save_every=4, bf16=False, d_model=16, nhead=2,
    num_layers=2, dim_feedforward=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tables):
    return prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train")


def test_interrupted_training_equals_unbroken(data, tmp_path):
    whole = Trainer(PARAMS, data, data, tmp_path / "whole")
    whole.run()
    Trainer(PARAMS, data, data, tmp_path / "broken").run(steps=4)
    second = Trainer(PARAMS, data, data, tmp_path / "broken")
    assert second.step == 4
    second.run()
    for (name, a), b in zip(
        whole.model.state_dict().items(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    for name, a in whole.averaged.items():
        assert torch.equal(a, second.averaged[name]), name
    rows = list(csv.DictReader((tmp_path / "broken" / LOG_FILE).open()))
    assert [int(r["step"]) for r in rows] == [4, 8]
    reference = list(csv.DictReader((tmp_path / "whole" / LOG_FILE).open()))
    assert rows[1]["val_x"] == reference[1]["val_x"]


def test_it_learns(data, tmp_path):
    params = PARAMS.model_copy(
        update={"steps": 300, "save_every": 300, "learning_rate": 5e-3, "ema": 0.9}
    )
    trainer = Trainer(params, data, data, tmp_path)
    before = sum(trainer.validation_loss())
    trainer.run()
    after = sum(trainer.validation_loss())
    assert after < 0.8 * before


def test_other_settings_in_the_same_folder_are_refused(data, tmp_path):
    Trainer(PARAMS, data, data, tmp_path).run(steps=4)
    other = PARAMS.model_copy(update={"d_model": 32})
    with pytest.raises(UserInputError, match="d_model=16"):
        Trainer(other, data, data, tmp_path)


def test_exported_checkpoint_holds_the_averaged_weights(data, tmp_path):
    trainer = Trainer(PARAMS, data, data, tmp_path)
    trainer.run()
    loaded = load_model(str(tmp_path / "model.pt"))
    assert loaded.preset == "open"
    assert loaded.meta["steps"] == 8
    for name, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, trainer.averaged[name], rtol=1e-3, atol=1e-4)


def test_batches_depend_on_seed_and_step_only(data):
    plan = BatchPlan(atoms=64)
    first, second = BatchMaker(data, plan, 3), BatchMaker(data, plan, 3)
    first(0)
    a, b = first(5), second(5)
    assert torch.equal(a.x0, b.x0)
    assert torch.equal(a.noise_x, b.noise_x)
    assert not torch.equal(a.x0[:1, :4], BatchMaker(data, plan, 4)(5).x0[:1, :4])
    # Centred data and noise, and padding that is empty.
    for x in (a.x0, a.noise_x):
        assert x.sum(1).abs().max() < 1e-3
        assert x[~a.graph.mask].abs().sum() == 0
