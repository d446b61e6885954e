"""Trainings of two ranks on a CPU: the right gradients, the right ends, and no hang."""

import os
import signal
from multiprocessing import active_children

import numpy as np
import pytest
import torch

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.training import launch as launching
from packflow_core.training.batches import BatchMaker, BatchPlan
from packflow_core.training.data import TrainingSet, prepare
from packflow_core.training.job import Job, Outcome, run_job
from packflow_core.training.launch import check_ranks, launch
from packflow_core.training.mixture import Source
from packflow_core.training.pretrain import Trainer, TrainParams
from packflow_core.training.state import STATE_FILE

PARAMS = TrainParams(
    steps=8, warmup=0, cooldown=2, atoms=64, save_every=4, bf16=False, d_model=16, nhead=2,
    num_layers=1, dim_feedforward=16, clip=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tables, tmp_path_factory):
    """Data of both splits."""
    data = prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train")
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        data.save(folder / f"{split}.npz")
    return folder


def job(folder, out, params=PARAMS):
    out.mkdir(exist_ok=True)
    return Job((Source(folder),), out, params, threads=1)


def weights(out):
    return torch.load(out / STATE_FILE, weights_only=True)["model"]


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    """A training of two ranks: its folder, and what `launch` said."""
    out = tmp_path_factory.mktemp("unbroken")
    steps = []
    outcome = launch(job(folder, out), 2, on_step=lambda step, loss: steps.append((step, loss)))
    assert [step for step, _ in steps] == list(range(9))
    assert np.isfinite([loss for _, loss in steps[1:]]).all()
    return out, outcome


def test_two_ranks_are_one_process_with_both_batches(folder, unbroken, tmp_path):
    """A reference that knows nothing of ranks: both batches, the mean of their gradients."""
    out, outcome = unbroken
    data = TrainingSet.load(folder / "train.npz")
    reference = Trainer(PARAMS, data, data, tmp_path)
    second = BatchMaker(data, reference.batches.plan, PARAMS.seed, rank=1)
    optimizer = reference.optimizer
    for step in range(PARAMS.steps):
        optimizer.zero_grad()
        for make in (reference.batches, second):
            (reference.objective(reference.model, make(step))[0] / 2).backward()
        torch.nn.utils.clip_grad_norm_(reference.model.parameters(), PARAMS.clip)
        for group in optimizer.param_groups:
            group["lr"] = reference.rate(step)
        optimizer.step()
    for name, value in weights(out).items():
        torch.testing.assert_close(value, reference.model.state_dict()[name], rtol=1e-4, atol=1e-6)
    # What `launch` compares between the ranks is a digest of these weights.
    reference.model.load_state_dict(weights(out))
    assert outcome.weights == reference.digest()
    assert outcome.step == 8


def test_the_batch_of_rank_0_is_that_of_one_process(folder):
    data, plan = TrainingSet.load(folder / "train.npz"), BatchPlan(atoms=64)
    alone, leading, other = (BatchMaker(data, plan, 3, rank)(5) for rank in (0, 0, 1))
    assert torch.equal(alone.noise_x, leading.noise_x)
    assert not torch.equal(alone.noise_l[:1], other.noise_l[:1])


def test_a_dead_rank_ends_the_training_and_it_continues_exactly(folder, unbroken, tmp_path):
    def kill_second(step, loss):
        if step == 6:
            (victim,) = [p for p in active_children() if p.name == "csp train, rank 1"]
            os.kill(victim.pid, signal.SIGKILL)

    with pytest.raises(RunFailedError, match=r"Rank 1 of the 2 .* killed by signal 9.* continues"):
        launch(job(folder, tmp_path), 2, on_step=kill_second)
    assert not [p for p in active_children() if p.name.startswith("csp train")]
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["step"] == 4
    outcome = launch(job(folder, tmp_path), 2)
    assert outcome.weights == unbroken[1].weights
    for name, value in weights(unbroken[0]).items():
        assert torch.equal(weights(tmp_path)[name], value), name


def test_what_a_rank_says_of_the_input_comes_through(folder, unbroken):
    wide = PARAMS.model_copy(update={"d_model": 32})
    with pytest.raises(UserInputError, match="d_model=16"):
        launch(job(folder, unbroken[0], wide), 1)


def test_ranks_that_differ_are_an_error():
    one, two = Outcome(8, 1.0, "aa"), Outcome(8, 1.1, "bb")
    assert launching._agreed([one, one]) is one
    with pytest.raises(RunFailedError, match="different weights"):
        launching._agreed([one, two])


def test_more_gpus_than_there_are():
    with pytest.raises(UserInputError, match="64 GPUs"):
        check_ranks(64, "cuda")


def test_asked_to_stop_it_saves(folder, tmp_path):
    seen = []
    outcome = run_job(
        job(folder, tmp_path), on_step=lambda step, loss: seen.append(step),
        stop=lambda: bool(seen) and seen[-1] >= 2,
    )  # fmt: skip
    assert outcome.step == 3
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["step"] == 3
