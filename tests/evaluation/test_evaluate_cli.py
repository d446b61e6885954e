"""`csp evaluate` as a user calls it."""

import json

import pytest
import typer
from typer.testing import CliRunner

from flows import evaluate_commands
from flows.console import Terminal
from flows.evaluate_cli import add_to
from packflow_core.errors import UserInputError


@pytest.fixture
def csp():
    """Call the command on a terminal of its own; returns the exit code."""

    def call(*arguments):
        app = typer.Typer()
        app.callback()(lambda: None)
        terminal = Terminal()
        add_to(app, lambda: terminal)
        return app(["evaluate", *map(str, arguments)], standalone_mode=False)

    return call


def test_a_table_and_files_come_out(csp, folder, tmp_path, capfd):
    out = tmp_path / "out"
    arguments = [
        "--targets", folder, "--generator", "random", "--n", 3, "--workers", 1, "--out", out,
        "--set", "conformers.n_embed=1", "--resamples", 100,
    ]  # fmt: skip
    assert csp(*arguments, "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["status"], document["exit_code"]) == ("finished", 0)
    assert document["molecules"] == 2
    assert document["settings"]["spec"] == {"conformers": {"n_embed": 1}}
    assert document["results"][0]["proposals"] == 6
    assert csp(*arguments) == 0
    shown = capfd.readouterr()
    assert "2 molecules, 2 targets, 2 known forms" in shown.out
    assert f"{document['results'][0]['amd_linf_A']['mean']:.3f}" in shown.out
    assert "2 targets with 2 known forms" in shown.err
    assert (out / "geometry.png").stat().st_size > 10_000


def test_nothing_measured_is_no_success(capsys):
    terminal = Terminal()
    terminal.json = True
    code = evaluate_commands._show(terminal, {"results": [{"measured": 0}, {"measured": 0}]})
    shown = capsys.readouterr()
    assert (code, json.loads(shown.out)["status"]) == (3, "too_many_failures")
    assert "Not one proposal could be measured" in shown.err
    assert evaluate_commands._show(terminal, {"results": [{"measured": 0}, {"measured": 1}]}) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "engine=gfnff"], "fields are those of conformers"),
        (["--set", "generate.steps"], "not of the form FIELD=VALUE"),
        (["--set", "conformers.n_embed=-1"], "n_embed"),
        (["--z", "two"], "--z two is not a list"),
        (["--z", "0"], "1 to 16"),
        (["--generator", "nothing"], "Generator 'nothing'"),
        (["--split", "test"], "no column split"),
        (["--origin", "guess", "--split", "test"], "no column split"),
        (["--confidence", "2"], "--confidence"),
    ],
)
def test_wrong_options_get_one_sentence(csp, folder, tmp_path, options, message):
    with pytest.raises(UserInputError, match=message):
        csp("--targets", folder, "--out", tmp_path / "out", "--generator", "random", *options)


def test_a_run_folder_is_no_place_for_an_evaluation(csp, folder, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserInputError, match="holds a run"):
        csp("--targets", folder, "--out", tmp_path)


def test_help_is_a_manual():
    app = typer.Typer()
    app.callback()(lambda: None)
    add_to(app, Terminal)
    text = CliRunner().invoke(app, ["evaluate", "--help"]).output
    assert "csp evaluate --targets" in text
    assert "manifest.csv" in text
