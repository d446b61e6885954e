"""States on disk: damaged ones are noticed, and the one before takes their place."""

import csv
import logging

import pytest
import torch

from packflow_core.errors import UserInputError
from packflow_core.training.data import prepare
from packflow_core.training.logs import LOG_FILE, TrainingLog
from packflow_core.training.pretrain import Trainer, TrainParams
from packflow_core.training.state import PREVIOUS_FILE, STATE_FILE, read_state, write_state

CPU = torch.device("cpu")
PARAMS = TrainParams(
    steps=6, warmup=0, cooldown=2, atoms=64, save_every=2, bf16=False, d_model=16, nhead=2,
    num_layers=1, dim_feedforward=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tables):
    return prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train")


def state(step):
    return {"params": {}, "step": step, "model": {"w": torch.full((1000,), float(step))}}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


def flip(path):
    """One bit inside the numbers, which PyTorch would load without a word."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((8,), 2.0).numpy().tobytes()) + 3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, caplog, damage):
    for step in (1, 2):
        write_state(tmp_path, state(step))
    assert read_state(tmp_path, CPU)["step"] == 2
    damage(tmp_path / STATE_FILE)
    with caplog.at_level(logging.WARNING):
        assert read_state(tmp_path, CPU)["step"] == 1
    assert "continues at step 1" in caplog.text


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    for step in (1, 2):
        write_state(tmp_path, state(step))
    (tmp_path / STATE_FILE).unlink()
    assert read_state(tmp_path, CPU)["step"] == 1
    assert read_state(tmp_path / "none", CPU) is None


def test_two_damaged_states_get_a_sentence(tmp_path):
    for step in (1, 2):
        write_state(tmp_path, state(step))
    truncate(tmp_path / STATE_FILE)
    truncate(tmp_path / PREVIOUS_FILE)
    with pytest.raises(UserInputError, match=r"No state .* can be read"):
        read_state(tmp_path, CPU)


def test_training_from_the_state_before_equals_an_unbroken_one(data, tmp_path):
    whole = Trainer(PARAMS, data, data, tmp_path / "whole")
    whole.run()
    Trainer(PARAMS, data, data, tmp_path / "broken").run(steps=4)
    truncate(tmp_path / "broken" / STATE_FILE)
    again = Trainer(PARAMS, data, data, tmp_path / "broken")
    assert again.step == 2
    again.run()
    assert again.digest() == whole.digest()
    rows, reference = (
        list(csv.DictReader((tmp_path / name / LOG_FILE).open())) for name in ("broken", "whole")
    )
    for row, other in zip(rows, reference, strict=True):  # no step twice, the same numbers
        assert {k: v for k, v in row.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }


def test_rows_behind_the_state_are_removed(tmp_path):
    rows = TrainingLog(tmp_path, 0)
    for step in (2, 4, 6):
        rows.write({"step": step, "loss": 0.5})
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write("8,0.")  # cut short by a kill
    TrainingLog(tmp_path, 4).write({"step": 6, "loss": 0.25})
    found = list(csv.DictReader((tmp_path / LOG_FILE).open()))
    assert [(r["step"], r["loss"]) for r in found] == [("2", "0.5"), ("4", "0.5"), ("6", "0.25")]


def test_a_log_of_an_earlier_version_gets_the_new_columns(tmp_path):
    TrainingLog(tmp_path, 0).write({"step": 1, "loss": 0.5})
    rows = TrainingLog(tmp_path, 1)
    rows.write({"step": 2, "loss": 0.25, "energy": -1.0})
    rows.write({"step": 3, "loss": 0.125})
    TrainingLog(tmp_path, 3)  # and finds all of them whole
    found = list(csv.DictReader((tmp_path / LOG_FILE).open()))
    assert [(r["step"], r["loss"], r["energy"]) for r in found] == [
        ("1", "0.5", ""), ("2", "0.25", "-1.0"), ("3", "0.125", ""),
    ]  # fmt: skip


def test_tensorboard_holds_the_numbers_of_the_table(data, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Trainer(PARAMS, data, data, tmp_path, tensorboard=True).run()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = list(csv.DictReader((tmp_path / LOG_FILE).open()))
    for name in ("val_x", "loss"):
        assert [(e.step, e.value) for e in events.Scalars(name)] == [
            (int(r["step"]), pytest.approx(float(r[name]))) for r in rows
        ]


def test_tensorboard_that_is_missing_gets_a_sentence(data, tmp_path, monkeypatch):
    monkeypatch.setattr("packflow_core.training.logs.find_spec", lambda name: None)
    with pytest.raises(UserInputError, match="pip install"):
        TrainingLog(tmp_path, 0, tensorboard=True)
