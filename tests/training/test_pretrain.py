"""Training: it learns, and an interrupted one is the unbroken one."""

import csv

import numpy as np
import pytest
import torch

from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import load_model
from packflow_core.training.batches import BatchMaker, BatchPlan
from packflow_core.training.data import prepare
from packflow_core.training.pretrain import LOG_FILE, MODEL_FILE, Trainer, TrainParams

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
    loaded = load_model(str(tmp_path / MODEL_FILE))
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


def test_the_average_forgets_by_its_decay(data, tmp_path):
    trainer = Trainer(PARAMS.model_copy(update={"ema": 0.3}), data, data, tmp_path)
    expected = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    for step in range(1, 7):
        trainer.run(steps=step)
        decay = min(0.3, step / (9 + step))  # the start counts little
        for name, value in trainer.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in trainer.averaged.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_and_broken_batches_skipped(data, tmp_path):
    params = PARAMS.model_copy(update={"clip": 1e-3, "warmup": 0, "cooldown": 0})
    trainer = Trainer(params, data, data, tmp_path)
    trainer.run(steps=1)
    gradients = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    assert gradients.norm() == pytest.approx(1e-3, rel=1e-3)
    before = trainer.digest()
    make = trainer.batches.__call__
    broken = make(1)
    broken.x0.fill_(float("nan"))
    trainer.batches = lambda step: broken if step == 1 else make(step)
    trainer.run(steps=2)
    assert trainer.digest() == before
    trainer.run(steps=3)
    assert trainer.digest() != before
    assert trainer.running > 0  # and not NaN


def test_half_precision_is_used_when_asked(data, tmp_path):
    kinds = {}
    for bf16 in (True, False):
        trainer = Trainer(
            PARAMS.model_copy(update={"bf16": bf16}), data, data, tmp_path / str(bf16)
        )
        layer = trainer.model.trunk.layers[0].linear1
        layer.register_forward_hook(lambda m, i, out, bf16=bf16: kinds.update({bf16: out.dtype}))
        trainer.run(steps=1)
    assert kinds == {True: torch.bfloat16, False: torch.float32}
    assert TrainParams().bf16


def test_the_validation_loss_has_fixed_noise(data, tmp_path):
    """The same weights give the same loss at any step, and whatever trains."""
    first = Trainer(PARAMS, data, data, tmp_path / "a")
    start = first.validation_loss()
    first.run()
    assert first.validation_loss() != start
    second = Trainer(PARAMS.model_copy(update={"steps": 5}), data, data, tmp_path / "b")
    second.averaged = {k: v.clone() for k, v in first.averaged.items()}
    assert second.validation_loss() == first.validation_loss()


def test_crystals_of_like_size_go_together(data):
    """Sizes 8 to 40 in one set: a batch of neighbours has little padding."""
    maker = BatchMaker(data, BatchPlan(atoms=64), 0)
    sizes = np.linspace(8, 40, len(data)).astype(int)
    maker._sizes = sizes
    drawn = []
    maker.make = lambda chosen, rng: drawn.append(sizes[chosen])
    for step in range(200):
        maker(step)
    padding = np.mean([1 - s.mean() / s.max() for s in drawn])
    assert padding < 0.1  # a batch at random would be a third empty
    assert np.mean([s.sum() for s in drawn]) == pytest.approx(64, rel=0.2)
    # And large crystals are drawn as often as their weight says.
    share = np.bincount(np.concatenate(drawn), minlength=41) / sum(map(len, drawn))
    weights = np.bincount(sizes, weights=data.weights(), minlength=41)
    assert abs(share - weights).max() < 0.04
