"""Evaluations that are cut off, lose workers, or need Genarris."""

import pandas as pd
import pytest
from genarris_programs import install

from packflow_core.chem.conformers import ConformerError
from packflow_core.evaluation import drawing
from packflow_core.evaluation.evaluation import evaluate
from packflow_core.evaluation.settings import make_settings
from packflow_core.stages import conformers, pools
from packflow_core.workers import Outcome

SPEC = {"conformers": {"n_embed": 1}}


class InlinePool:
    """Does the work of a pool here, and loses what it is told to lose."""

    def __init__(self, lost=()):
        self.lost = set(lost)
        self.calls = []

    def map_groups(self, function, groups, timeout_s):
        for members, arguments in groups:
            self.calls.append(function.__name__)
            bad = [key for key, _ in members if (function.__name__, key[1]) in self.lost]
            for key in bad:
                yield Outcome(key, None, "worker_lost", "killed by signal 9", 1.5, "cpu")
            sound = [member for member in members if member[0] not in bad]
            for key, value in function(sound, *arguments) if sound else ():
                yield Outcome(key, value, None, "", 0.1, "cpu")


@pytest.fixture
def settings(folder):
    (folder / "manifest.csv").write_text("file,smiles,csd_refcode\nurea.cif,NC(N)=O,UREA01\n")

    def make(**values):
        fields = {"generators": ("random",), "n": 40, "spec": SPEC, "resamples": 100, **values}
        return make_settings({"targets": (folder,), **fields})

    return make


def use(monkeypatch, pool):
    monkeypatch.setattr(pools, "pool", lambda seats, log: pool)
    return pool


def test_a_lost_worker_costs_its_candidates_a_row_and_no_more(settings, tmp_path, monkeypatch):
    use(monkeypatch, InlinePool())
    whole = evaluate(settings(), tmp_path / "whole", 1).proposals
    use(monkeypatch, InlinePool([("draw_members", 3), ("score_members", 7)]))
    table = evaluate(settings(), tmp_path / "out", 1).proposals
    assert table["index"].tolist() == list(range(40))
    lost = table[table["index"].isin([3, 7])]
    assert lost["status"].tolist() == ["failed", "failed"]
    assert lost["reason"].tolist() == ["worker_lost", "worker_lost"]
    assert lost["detail"].tolist() == ["killed by signal 9"] * 2
    others = ~table["index"].isin([3, 7])
    columns = ["index", "status", "form", "amd_linf_A", "rdf_wasserstein_A", "clash_percent"]
    pd.testing.assert_frame_equal(table.loc[others, columns], whole.loc[others, columns])


def test_a_candidate_that_a_worker_was_lost_with_gets_its_second_attempt(
    settings, tmp_path, monkeypatch
):
    """A lost worker may be a neighbour's fault, so there is another attempt, and it is seen."""

    class Once(InlinePool):
        def map_groups(self, function, groups, timeout_s):
            yield from super().map_groups(function, groups, timeout_s)
            self.lost = set()

    pool = use(monkeypatch, Once([("draw_members", 3)]))
    table = evaluate(settings(), tmp_path / "out", 1).proposals
    assert (table["reason"] != "worker_lost").all()
    assert pool.calls.count("draw_members") == 3  # two blocks, and the one candidate


def test_an_evaluation_that_was_cut_off_ends_as_an_unbroken_one(settings, tmp_path, monkeypatch):
    use(monkeypatch, InlinePool())
    whole = evaluate(settings(), tmp_path / "whole", 1).proposals
    original = drawing._write
    written = []

    def write(run, stage, rows, label):
        if written:
            raise KeyboardInterrupt
        written.append(len(rows))
        original(run, stage, rows, label)

    monkeypatch.setattr(drawing, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings(), tmp_path / "out", 1)
    assert written == [32]
    monkeypatch.setattr(drawing, "_write", original)
    pool = use(monkeypatch, InlinePool())
    table = evaluate(settings(), tmp_path / "out", 1).proposals
    assert pool.calls.count("draw_members") == 1  # the block of 8 that was missing
    pd.testing.assert_frame_equal(table.drop(columns="wall_s"), whole.drop(columns="wall_s"))


def test_genarris_is_a_generator_like_any_other(settings, tmp_path, monkeypatch):
    install(tmp_path / "bin", monkeypatch)
    use(monkeypatch, InlinePool())
    spec = {"genarris": {"n_conformers": 1}}
    fields = {"generators": ("genarris-plain",), "n": 5, "z": (2,), "spec": spec}
    table = evaluate(settings(**fields), tmp_path / "out", 1).proposals
    assert table["status"].tolist() == ["ok"] * 5
    assert table["amd_linf_A"].between(0.01, 3).all()
    assert set(table["variant"]) == {"raw"}
    monkeypatch.setenv("MODE", "crash")
    again = evaluate(settings(**fields), tmp_path / "out", 1).proposals
    pd.testing.assert_frame_equal(again, table)
    crashed = evaluate(settings(**fields, seeds=(1,)), tmp_path / "out", 1).proposals
    assert set(crashed["reason"]) == {"engine_error"}
    assert crashed["detail"].str.contains("exit code 3").all()


@pytest.mark.parametrize("where", ["before the workers", "in a worker"])
def test_a_molecule_without_conformers_has_rows_that_say_so(settings, tmp_path, monkeypatch, where):
    sentence = "No conformer of NC(N)=O could be embedded."

    def fail(*_):
        raise ConformerError(sentence)

    if where == "in a worker":
        monkeypatch.setattr(drawing, "make_rows", fail)
    else:
        monkeypatch.setattr(conformers, "conformers_of", fail)
    pool = use(monkeypatch, InlinePool())
    table = evaluate(settings(n=3), tmp_path / "out", 1).proposals
    assert table["status"].tolist() == ["failed"] * 3
    assert set(table["reason"]) == {"engine_error"}
    assert set(table["detail"]) == {sentence}
    assert pool.calls.count("draw_members") == (where == "in a worker")
