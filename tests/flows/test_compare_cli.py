"""`csp compare` on run folders, and what it refuses before anything starts."""

import json
from functools import partial

import pytest
from race_runs import Candidate, inline, no_figures, write  # noqa: F401

from flows import local_api
from packflow_core.store.lock import RunLock

RACE = ("--generators", "random,random+press", "--engine", "springs")


@pytest.fixture
def compare(call_csp):
    """Call `csp compare` in this process: exit code, standard output, standard error."""

    return partial(call_csp, "compare")


@pytest.fixture
def folders(write):  # noqa: F811
    """Two finished runs, one of them with a lost candidate."""
    lost = Candidate(end=("relax", "failed", "exploded"))
    return [
        write("a", [Candidate(energy=e) for e in (6.0, 2.0, 12.0)]),
        write("b", [Candidate(energy=1.0, seconds={"relax": 9.0}), lost], generator="random+press"),
    ]


@pytest.mark.usefixtures("inline")
def test_two_runs_are_compared_at_the_terminal(compare, folders, tmp_path):
    out = tmp_path / "race"
    code, shown, err = compare(*folders, "--out", out, "--resamples", 100)
    assert code == 0, err
    assert "the first 2, all that a leg has (random 2 of 3)" in shown
    assert max(map(len, shown.split(f"figure     {out}")[0].splitlines())) <= 100
    for word in ("random+press", "unconv.", "lowest of half", "basins within 20 kJ/mol"):
        assert word in shown
    assert f"page       {out / 'comparison.md'}" in shown
    assert "clustering 3 structures" in err
    assert (out / "race.png").is_file()


@pytest.mark.usefixtures("inline", "no_figures")
def test_json_is_one_document_and_quiet_is_quiet(compare, folders, tmp_path):
    options = ("--out", tmp_path / "race", "--resamples", 100, "--n", 1, "--window", 3)
    code, shown, err = compare(*folders, *options, "--json")
    document = json.loads(shown)
    assert (code, err) == (0, "")
    assert (document["status"], document["exit_code"]) == ("finished", 0)
    assert document["settings"]["window_kJ_mol"] == 3.0
    assert [leg["candidates"]["compared"] for leg in document["legs"]] == [1, 1]
    assert (
        json.loads((tmp_path / "race" / "comparison.json").read_text())["budget"]
        == (document["budget"])
    )
    assert compare(*folders, *options, "--quiet") == (0, "", "")


@pytest.mark.usefixtures("inline", "no_figures")
def test_equal_compute_of_finished_runs(compare, folders, tmp_path):
    code, shown, err = compare(
        *folders, "--out", tmp_path / "race", "--compute", 12, "--resamples", 100, "--json"
    )
    assert code == 0, err
    document = json.loads(shown)
    assert document["budget"]["kind"] == "compute"
    assert [leg["candidates"]["compared"] for leg in document["legs"]] == [3, 1]


MISTAKES = {
    "one folder": (["{a}"], "two or more run folders"),
    "one folder twice": (["{a}", "{a}"], "was given twice"),
    "no run folder": (["{a}", "{tmp}"], "is not a run folder"),
    "a molecule without generators": (["C=O"], "name the generators that shall race"),
    "engine of finished runs": (["{a}", "{b}", "--engine", "gfnff"], "--engine belongs to a race"),
    "two budgets": (["{a}", "{b}", "--n", "1", "--compute", "3"], "give --n or --compute, not"),
    "too many": (["{a}", "{b}", "--n", "3"], "random+press has 2 finished candidates and 3 are"),
    "too long": (["{a}", "{b}", "--compute", "99"], "random holds 12 s of work and 99 s are"),
    "resamples": (["{a}", "{b}", "--resamples", "3"], "--resamples 3 is not allowed"),
    "window": (["{a}", "{b}", "--window", "-1"], "--window -1.0 is not allowed"),
    "out is a run": (["{a}", "{b}", "--out", "{a}"], "holds a run; choose another with --out"),
    "unfair": (["{a}", "{c}"], "relax.fmax is 0.05 in"),
    "one generator": (["C=O", "--generators", "random"], "two or more generators"),
    "a generator twice": (["C=O", "--generators", "random,random"], "both be called random"),
    "unknown generator": (["C=O", "--generators", "random,nope", *RACE[2:]], "nope"),
    "two molecules": (["C=O", "CO", *RACE], "takes one molecule, not 2 arguments"),
    "compute of a race": (["C=O", *RACE, "--compute", "3"], "a race takes --seconds"),
    "n and seconds": (["C=O", *RACE, "--n", "3", "--seconds", "9"], "give --n or --seconds"),
    "pilot alone": (["C=O", *RACE, "--pilot", "3"], "--pilot is the first step towards"),
    "race out is a run": (["C=O", *RACE, "--out", "{a}"], "holds a run; choose another"),
    "another run in a leg": (
        ["C=O", *RACE, "--name", "x", "--z", "2", "--n", "3", "--seed", "5", "--out", "{race}"],
        "holds another run: seed is 0 there and 5 here",
    ),
    "device": (["C=O", *RACE, "--device", "toaster"], "Unknown device 'toaster'"),
    "bad SMILES": (["C1CC", *RACE], "'C1CC' is not a valid SMILES"),
}


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    compare, folders, write, tmp_path, monkeypatch, mistake  # noqa: F811
):  # fmt: skip
    def started():
        raise AssertionError("Prefect was started before the input was checked")

    monkeypatch.setattr(local_api, "prepare", started)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    places = {"a": folders[0], "b": folders[1], "tmp": tmp_path, "race": tmp_path / "race"}
    places["c"] = write("c", [Candidate()], relax={"fmax": 0.2})
    write("race/random", [Candidate()] * 3)
    arguments, says = MISTAKES[mistake]
    code, shown, err = compare(*(text.format(**places) for text in arguments))
    assert (code, shown) == (2, "")
    assert says in err
    assert err.startswith("csp: ")
    assert len(err.splitlines()) == 1
    assert list((tmp_path / "here").iterdir()) == []
    code, shown, again = compare(*(text.format(**places) for text in arguments), "--json")
    assert (code, again) == (2, err)
    assert f"csp: {json.loads(shown)['error']}\n" == err


def test_a_leg_that_another_process_runs_is_refused(compare, write, tmp_path, monkeypatch):  # noqa: F811
    leg = write("race/random", [Candidate()])
    race = ("--name", "x", "--z", "2", "--n", "1", "--out", tmp_path / "race")
    with RunLock(leg):
        code, _, err = compare("C=O", *RACE, *race)
    assert code == 2
    assert "in use by another csp process" in err


def test_help_explains_both_ways(compare, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, shown, _ = compare("--help")
    assert code == 0
    for word in ("--generators", "--seconds", "--compute", "--window", "csp compare runs/a runs/b"):
        assert word in shown
