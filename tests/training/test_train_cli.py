"""`csp train` and `csp models measure` as a user calls them."""

import json

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.console import Terminal
from packflow_core.errors import UserInputError

SMALL = [
    *("--set", "atoms=64"), *("--set", "d_model=16"), *("--set", "nhead=2"),
    *("--set", "num_layers=1"), *("--set", "dim_feedforward=16"), *("--set", "bf16=false"),
]  # fmt: skip


def call(monkeypatch, capsys, *arguments):
    """Output of a command, on a terminal of its own: the module's one is bound to real streams."""
    monkeypatch.setattr(cli, "terminal", Terminal())
    assert not cli.app(list(arguments), standalone_mode=False)
    return capsys.readouterr().out


@pytest.fixture
def data(tables, tmp_path):
    """The tables with a second split, so that there is something to validate on."""
    import pandas as pd

    folder = tmp_path / "tables"
    folder.mkdir()
    for name in ("molecules", "crystals"):
        table = pd.read_parquet(tables / f"{name}.parquet")
        table.loc[table["mol_hash"] == "bbbb", "split"] = "val"
        table.to_parquet(folder / f"{name}.parquet")
    return folder


def test_train_then_continue_then_measure(monkeypatch, capsys, data, tmp_path):
    out = tmp_path / "model"
    common = ["train", "--data", str(data), "--out", str(out), "--json", *SMALL]
    first = json.loads(call(monkeypatch, capsys, *common, "--steps", "3"))
    assert first["step"] == 3
    assert (out / "data" / "train.npz").exists()
    second = json.loads(call(monkeypatch, capsys, *common, "--steps", "5"))
    assert second["step"] == 5
    model = str(out / "model.pt")
    facts = json.loads(
        call(
            monkeypatch, capsys, "models", "measure", model, "--data", str(out / "data"),
            "--split", "val", "--samples", "2", "--steps", "3", "--json",
        )
    )  # fmt: skip
    assert facts["molecules"] == 1
    assert 0 <= facts["bonds_within"] <= 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "d_model=three"], "d_model"),
        (["--set", "nonsense=1"], "nonsense"),
        (["--set", "d_model"], "FIELD=VALUE"),
    ],
)
def test_wrong_settings_get_a_sentence(data, tmp_path, extra, message):
    with pytest.raises(UserInputError, match=message):
        cli.app(
            ["train", "--data", str(data), "--out", str(tmp_path / "m"), *extra],
            standalone_mode=False,
        )


def test_missing_data_gets_a_sentence(tmp_path):
    with pytest.raises(UserInputError, match="holds neither"):
        cli.app(
            ["train", "--data", str(tmp_path), "--out", str(tmp_path / "m"), "--quiet"],
            standalone_mode=False,
        )


def test_help_is_a_manual():
    text = CliRunner().invoke(cli.app, ["train", "--help"]).output
    assert "Example: csp train" in text
