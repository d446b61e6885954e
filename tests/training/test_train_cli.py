"""`csp train` and `csp models measure` as a user calls them."""

import json
import os
import signal

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.console import CommandInterrupted, Terminal
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
    model = str(out / "model.safetensors")
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
    assert "csp train --data tables --out model" in text


def test_two_folders_and_a_start_are_on_record(monkeypatch, capsys, data, tmp_path):
    def train(out, *more):
        common = ["train", "--out", str(tmp_path / out), "--json", "--set", "bf16=false"]
        return call(monkeypatch, capsys, *common, "--set", "atoms=64", *more)

    train("first", "--data", str(data), "--steps", "2", *SMALL)
    (tmp_path / "more").mkdir()
    split = tmp_path / "first" / "data" / "train.npz"
    split.rename(tmp_path / "more" / "train.npz")
    start = str(tmp_path / "first" / "model.safetensors")
    mixed = ["--data", f"{tmp_path / 'more'}=3", "--data", f"{data}=1", "--init", start]
    for steps in ("2", "3"):  # the same command continues; the shape is that of the checkpoint
        facts = json.loads(train("second", *mixed, "--steps", steps))
        assert facts["step"] == int(steps)
    show = ["models", "show", facts["checkpoint"], "--json"]
    meta = json.loads(call(monkeypatch, capsys, *show))["meta"]
    before = json.loads(call(monkeypatch, capsys, "models", "show", start, "--json"))
    assert meta["start"] == {"name": "model.safetensors", "sha256": before["sha256"]}
    assert [source["share"] for source in meta["data"]] == [0.75, 0.25]
    assert meta["architecture"] == before["meta"]["architecture"]


def test_asked_to_end_it_saves_and_says_so(monkeypatch, data, tmp_path):
    """As a cluster does before it takes the machine away."""
    from packflow_core.training import job

    run = job.run_job

    def ended(it, on_step, stop):
        def note(step, loss):
            on_step(step, loss)
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        return run(it, on_step=note, stop=stop)

    monkeypatch.setattr(job, "run_job", ended)
    out = tmp_path / "m"
    with pytest.raises(
        CommandInterrupted, match=r"Interrupted at step [23]; it is saved"
    ) as caught:
        cli.app(
            ["train", "--data", str(data), "--out", str(out), "--steps", "50", "--quiet", *SMALL],
            standalone_mode=False,
        )
    assert caught.value.exit_code == 130
    assert (out / "model.safetensors").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("extra", "environment", "message"),
    [
        (["--gpus", "2", "--ranks", "2"], {}, "leave --ranks away"),
        (["--gpus", "2", "--device", "cpu"], {}, "--ranks on a CPU"),
        (["--ranks", "2"], {"RANK": "0", "WORLD_SIZE": "2"}, "torchrun starts the ranks"),
        ([], {"RANK": "x", "WORLD_SIZE": "2"}, "are not numbers"),
        (["--set", "d_model=33"], {}, "no multiple of nhead"),
        (["--preset", "open", "--architecture", "official"], {}, "take 2M, 20M or 60M"),
    ],
)
def test_options_that_do_not_fit_get_a_sentence(
    monkeypatch, data, tmp_path, extra, environment, message
):
    if environment:
        environment |= {"LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserInputError, match=message):
        cli.app(
            ["train", "--data", str(data), "--out", str(tmp_path / "m"), "--quiet", *extra],
            standalone_mode=False,
        )
