"""The flow `train`: what its form leaves empty is the preset's, and a small training runs."""

import pandas as pd
import pytest

from flows import train as module
from flows.train import TrainSettings, train
from flows.train_commands import training_params
from packflow_core.errors import UserInputError


def test_empty_fields_are_those_of_the_preset():
    params = training_params(TrainSettings(preset="20M", steps=5).given(), None)
    assert (params.architecture, params.d_model, params.num_layers) == ("official", 320, 12)
    assert (params.learning_rate, params.warmup, params.steps) == (3e-5, 0, 5)
    given = TrainSettings(learning_rate=1e-4, other={"d_model": 64, "nhead": 4}).given()
    params = training_params(given, None)
    assert (params.architecture, params.d_model, params.learning_rate) == ("open", 64, 1e-4)


def test_a_wrong_setting_is_one_sentence():
    with pytest.raises(UserInputError, match=r"d_model=100 is no multiple of nhead=8"):
        training_params(TrainSettings(other={"d_model": 100}).given(), None)
    with pytest.raises(UserInputError, match="colour"):
        training_params(TrainSettings(other={"colour": 1}).given(), None)


def test_a_training_goes_on_where_it_was(tables, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(module, "create_markdown_artifact", lambda text, key: shown.append(text))
    data = tmp_path / "data"
    data.mkdir()
    for name in ("molecules", "crystals"):
        table = pd.read_parquet(tables / f"{name}.parquet")
        table.loc[table["mol_hash"] == "bbbb", "split"] = "val"
        table.to_parquet(data / f"{name}.parquet")
    small = {"d_model": 16, "nhead": 2, "num_layers": 1, "dim_feedforward": 16, "bf16": False}
    for steps in (2, 3):
        settings = TrainSettings(steps=steps, cooldown=1, atoms=64, other=small)
        facts = train.fn([str(data)], str(tmp_path / "out"), settings, device="cpu", threads=1)
        assert (facts["step"], facts["of"]) == (steps, steps)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "Step 3 of 3" in shown[-1]


def test_data_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserInputError, match="nowhere"):
        train.fn(data=[str(tmp_path / "nowhere")], out=str(tmp_path / "out"))
