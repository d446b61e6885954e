"""An alignment from the command's point of view: resumable, recorded, and it learns."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from packflow_core.align import trainer as module
from packflow_core.align.calibration import VolumeReference
from packflow_core.align.params import AlignParams
from packflow_core.align.rewards import Score
from packflow_core.align.rollouts import draw_groups
from packflow_core.align.trainer import Aligner
from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import load_model, save_open
from packflow_core.model.open_model import OpenConfig, OpenPackFlow
from packflow_core.store.rows import crystal_of
from packflow_core.training.data import TrainingSet

PARAMS = AlignParams(
    groups=2, group_size=4, steps=3, z=(1,), max_heavy=8, warmup=0, learning_rate=1e-3,
    save_every=1, validate_every=0, kl_weight=0.0, kl_stop=None, ratio_stop=None,
    keep_volume=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    model = OpenPackFlow(OpenConfig(d_model=16, nhead=2, num_layers=1, dim_feedforward=16))
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_open(path, model, model.state_dict(), {})
    return str(path)


@pytest.fixture(scope="module")
def chemistry():
    return TrainingSet.of_molecules(["CCO", "NC(N)=O", "CC(C)=O"])


@pytest.fixture
def small_cells_win(monkeypatch):
    """The energy of a crystal is its volume; every third candidate of a group fails."""

    def score(groups, engine, mode, hydrogen_steps, pool, on_score=lambda: None):
        return [
            [
                Score("failed", "engine_error", "on purpose")
                if k == 2 or row["status"] != "ok"
                else Score("ok", energy=math.log(crystal_of(row).volume), force=1.0)
                for k, row in enumerate(rows)
            ]
            for _, rows in groups
        ]

    monkeypatch.setattr(module, "score_groups", score)


def aligned(folder, tiny, chemistry, params=PARAMS, **run):
    made = Aligner(params, tiny, chemistry, folder, pool=None)
    made.run(**run)
    return made


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def test_an_interrupted_alignment_ends_like_an_unbroken_one(
    tmp_path, tiny, chemistry, small_cells_win
):
    params = PARAMS.model_copy(update={"replay": 2, "diversity": True, "weighted_kl": True})
    whole = aligned(tmp_path / "whole", tiny, chemistry, params)
    first = aligned(tmp_path / "parts", tiny, chemistry, params, time_limit=0.0)
    assert first.step == 1
    second = aligned(tmp_path / "parts", tiny, chemistry, params)
    assert torch.equal(weights(whole.model), weights(second.model))
    for name in ("step-000002.parquet",):
        tables = [
            pq.read_table(tmp_path / where / "candidates" / name) for where in ("whole", "parts")
        ]
        assert tables[0].equals(tables[1])
    log = (tmp_path / "parts" / "training-log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == ["step", "1", "2", "3"]


@pytest.mark.parametrize("families", [1, 2])
def test_shaped_families_resume_exactly_and_learn_from_other_advantages(
    tmp_path, tiny, chemistry, small_cells_win, families
):
    params = PARAMS.model_copy(update={"shaping": True, "shared_prefix": families, "draws": 2})
    whole = aligned(tmp_path / "whole", tiny, chemistry, params)
    aligned(tmp_path / "parts", tiny, chemistry, params, time_limit=0.0)
    parts = aligned(tmp_path / "parts", tiny, chemistry, params)
    assert torch.equal(weights(whole.model), weights(parts.model))
    assert not torch.equal(weights(whole.model), weights(load_model(tiny).model))
    plain = params.model_copy(update={"shaping": False})
    other = aligned(tmp_path / "plain", tiny, chemistry, plain)
    assert not torch.equal(weights(whole.model), weights(other.model))
    rows = pq.read_table(tmp_path / "plain" / "candidates" / "step-000000.parquet").to_pylist()
    size = families if families > 1 else params.group_size
    family = [row["advantage"] for row in rows[:size] if row["status"] == "ok"]
    assert sum(family) == pytest.approx(0.0, abs=1e-9)  # compared with each other alone


def test_every_candidate_has_a_row_and_a_failed_one_teaches_nothing(
    tmp_path, tiny, chemistry, small_cells_win
):
    aligned(tmp_path, tiny, chemistry)
    rows = pq.read_table(tmp_path / "candidates" / "step-000000.parquet").to_pylist()
    assert len(rows) == PARAMS.groups * PARAMS.group_size
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) >= PARAMS.groups
    assert {row["advantage"] for row in failed} == {0.0}
    for group in range(PARAMS.groups):
        sound = [r["advantage"] for r in rows if r["group"] == group and r["status"] == "ok"]
        assert np.mean(sound) == pytest.approx(0.0, abs=1e-9)  # the failed one is not in the mean


def log_volume(model, chemistry):
    """Mean logarithm of the volume of samples from the same noise."""
    from packflow_core.align.rollouts import sample_group, spread_groups

    params = PARAMS.model_copy(update={"group_size": 16})
    logs = [
        math.log(row["volume_A3"])
        for group in spread_groups(chemistry, params, 3)
        for row in sample_group(model, "open", group, params, 99)
        if row["status"] == "ok"
    ]
    return np.mean(logs)


def test_what_is_rewarded_becomes_more_frequent(tmp_path, tiny, chemistry, small_cells_win):
    """Small cells are rewarded: from the same noise the aligned model draws smaller ones."""
    params = PARAMS.model_copy(update={"steps": 6, "groups": 1, "group_size": 16, "draws": 4})
    free = aligned(tmp_path / "free", tiny, chemistry, params).model
    before = log_volume(load_model(tiny).model, chemistry)
    assert log_volume(free, chemistry) < before - 0.005
    kept = params.model_copy(update={"keep_volume": True})
    made = aligned(tmp_path / "kept", tiny, chemistry, kept)
    out = load_model(str(made.checkpoint)).model
    assert out.config.volume_scale > 1.005  # the policy has shrunk its cells
    assert made.model.config.volume_scale == 1.0
    reference = VolumeReference(load_model(tiny).model, chemistry, kept)
    assert reference.scale(out) == pytest.approx(1.0, abs=3e-3)


def test_validated_steps_keep_their_checkpoints(tmp_path, tiny, chemistry, small_cells_win):
    params = PARAMS.model_copy(update={"validate_every": 2})
    made = Aligner(
        params, tiny, chemistry, tmp_path, pool=None, validation=lambda model: {"v": 1.0}
    )
    made.run()
    kept = sorted((tmp_path / "validated").iterdir())
    assert [p.name for p in kept] == ["step-0002.safetensors", "step-0003.safetensors"]
    early, late = (weights(load_model(str(p)).model) for p in kept)
    assert torch.equal(late, weights(load_model(str(made.checkpoint)).model))
    assert not torch.equal(early, late)


def test_the_divergence_ends_it(tmp_path, tiny, chemistry, small_cells_win):
    params = PARAMS.model_copy(update={"kl_stop": 1e-12})
    made = aligned(tmp_path, tiny, chemistry, params)
    assert made.step == 1
    assert "divergence" in made.ended
    again = aligned(tmp_path, tiny, chemistry, params)
    assert again.step == 1  # it stays ended


def test_other_settings_or_molecules_are_refused(tmp_path, tiny, chemistry, small_cells_win):
    aligned(tmp_path, tiny, chemistry, time_limit=0.0)
    with pytest.raises(UserInputError, match=r"kl_weight=0\.0"):
        Aligner(PARAMS.model_copy(update={"kl_weight": 2.0}), tiny, chemistry, tmp_path, None)
    with pytest.raises(UserInputError, match="other molecules"):
        Aligner(PARAMS, tiny, TrainingSet.of_molecules(["CCO"]), tmp_path, None)
    with pytest.raises(UserInputError, match="max_heavy"):
        Aligner(PARAMS.model_copy(update={"max_heavy": 1}), tiny, chemistry, tmp_path / "b", None)


def test_a_published_model_shares_no_prefix(tmp_path, chemistry):
    published = str(Path(__file__).parents[1] / "data" / "golden" / "small_best_model.pt")
    params = PARAMS.model_copy(update={"shared_prefix": 2})
    with pytest.raises(UserInputError, match="shared_prefix takes an open model"):
        Aligner(params, published, chemistry, tmp_path / "x", None)


def test_molecules_come_equally_often(chemistry):
    params = PARAMS.model_copy(update={"groups": 3})
    for step in range(4):
        assert {g.molecule for g in draw_groups(chemistry, params, step)} == {0, 1, 2}
    assert draw_groups(chemistry, params, 3) == draw_groups(replace(chemistry), params, 3)
