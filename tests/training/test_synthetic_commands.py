"""What `csp synthesise` writes and refuses."""

import json

import pytest
import typer

from flows import cli, synthetic_cli
from flows.console import Terminal
from flows.synthetic_commands import synthesise
from packflow_core.errors import UserInputError
from packflow_core.training.data import prepare

SMALL = {
    "molecules": 1, "crystals_per_molecule": 2, "training_share": 1, "min_heavy": 1,
    "crystals": {"conformers": 1, "trials": 0},
}  # fmt: skip


def quiet(*, json=True):
    """A terminal of its own, bound to the streams of the test."""
    terminal = Terminal()
    terminal.json, terminal.quiet = json, True
    return terminal


def test_result_as_json(tables, tmp_path, capsys):
    synthesise(quiet(), tables, tmp_path / "out", SMALL, workers=1, minutes=None)
    facts = json.loads(capsys.readouterr().out)
    assert facts["complete"]
    assert facts["attempted"] == 2 == facts["made"] + sum(facts["failed"].values())
    assert (tmp_path / "out" / "train.npz").exists()


def test_no_time_is_no_set_but_no_error(tables, tmp_path, capsys):
    synthesise(quiet(json=False), tables, tmp_path / "out", SMALL, workers=1, minutes=-1.0)
    assert capsys.readouterr().out == "0 of 1 blocks are there; the same command continues.\n"
    assert not (tmp_path / "out" / "train.npz").exists()


def test_real_crystals_are_not_overwritten(tables, tmp_path):
    prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train").save(
        tmp_path / "train.npz"
    )
    with pytest.raises(UserInputError, match="choose another --out"):
        synthesise(quiet(), tmp_path, tmp_path, SMALL, workers=1, minutes=None)


def test_wrong_settings_are_named(tables, tmp_path):
    with pytest.raises(UserInputError, match=r"crystals\.trials='many' is wrong"):
        synthesise(
            quiet(), tables, tmp_path / "out", {"crystals": {"trials": "many"}},
            workers=1, minutes=None,
        )  # fmt: skip


def test_options_become_settings(tables, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "terminal", Terminal())
    app = typer.Typer()
    app.command()(synthetic_cli.synthesise)
    arguments = [
        *("--data", str(tables)), *("--out", str(tmp_path)), *("--molecules", "1"),
        *("--crystals-per-molecule", "3"), *("--seed", "5"), *("--set", "training_share=1"),
        *("--set", "min_heavy=1"), *("--set", "crystals={conformers: 1, max_cell: 3}"),
        *("--minutes", "0"), "--json",
    ]  # fmt: skip
    app(arguments, standalone_mode=False)
    assert not json.loads(capsys.readouterr().out)["complete"]
    settings = json.loads((tmp_path / "plan.json").read_text())["settings"]
    assert (settings["molecules"], settings["crystals_per_molecule"], settings["seed"]) == (1, 3, 5)
    assert settings["crystals"]["max_cell"] == 3
