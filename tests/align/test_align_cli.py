"""`csp align` and the flow of an alignment, with the demo engine in real worker processes."""

import csv
import json
import math

import pytest
import torch

from flows import align as flow_module
from packflow_core.align.params import AlignParams
from packflow_core.model.checkpoint import load_model, save_open
from packflow_core.model.open_model import OpenConfig, OpenPackFlow

SETTINGS = {
    "engine": "springs", "mode": "pressed", "groups": 2, "group_size": 4, "z": [1], "max_heavy": 8,
    "validate_every": 2, "save_every": 1,
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with molecules to learn on and to watch, and a tiny model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours.smi").write_text("CCO ethanol\n\n# later\nNC(N)=O\n")
    (tmp_path / "held.smi").write_text("CC(C)=O\n")
    torch.manual_seed(0)
    model = OpenPackFlow(OpenConfig(d_model=16, nhead=2, num_layers=1, dim_feedforward=16))
    save_open(tmp_path / "tiny.safetensors", model, model.state_dict(), {})
    return tmp_path


#: Settings with options of their own.
OPTIONS = ("engine", "mode", "steps")


@pytest.fixture
def align(here, call_csp):
    """Call `csp align` on them with small settings: exit code, output, errors."""

    def call(*more, **settings):
        given = SETTINGS | settings
        named = [x for k in OPTIONS if k in given for x in (f"--{k}", given[k])]
        others = [
            x for k, v in given.items() if k not in OPTIONS
            for x in ("--set", f"{k}={json.dumps(v)}")
        ]  # fmt: skip
        return call_csp(
            "align", "--molecules", "ours.smi", "--val", "held.smi", "--out", "aligned",
            "--generator", "tiny.safetensors", "--workers", "1", "--device", "cpu",
            *named, *others, *more,
        )  # fmt: skip

    return call


def log_of(folder):
    with (folder / "training-log.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_command_aligns_continues_and_says_what_came_out(here, align):
    code, out, err = align("--json", steps=1)
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["step"], facts["of"], facts["ended"]) == (1, 1, "")
    code, out, err = align(steps=3)
    assert code == 0, err
    assert "step 3 of 3" in out
    rows = log_of(here / "aligned")
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    for row in rows:  # validated: the last step of each command, and every second one
        numbers = [float(row[name]) for name in ("val_clash", "val_sound", "val_energy")]
        assert all(math.isfinite(x) for x in numbers), row
    assert all(float(row["sound"]) > 0 for row in rows)
    kept = sorted(p.name for p in (here / "aligned" / "validated").iterdir())
    assert kept == [f"step-{step:04d}.safetensors" for step in (1, 2, 3)]
    base = load_model("tiny.safetensors").model.state_dict()
    now = load_model(str(here / "aligned" / "model.safetensors"))
    assert any(not torch.equal(base[k], v) for k, v in now.model.state_dict().items())
    assert now.meta["aligned_from"]["name"] == "tiny.safetensors"
    assert now.meta["params"]["engine"] == "springs"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--set", "group_size=1"), "The alignment setting group_size=1 is wrong"),
        (("--set", "colour=3"), "colour"),
        (("--engine", "nosuch"), "nosuch"),
        (("--molecules", "missing.smi"), "missing.smi"),
        (("--generator", "nosuch.safetensors"), "nosuch.safetensors"),
    ],
)
def test_a_mistake_is_one_sentence(here, align, more, sentence):
    code, _, err = align(*more, steps=1)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_a_bad_molecule_is_named_with_its_line(here, align):
    (here / "ours.smi").write_text("CCO\nC1CC\n")
    code, _, err = align(steps=1)
    assert code == 2
    assert "C1CC" in err
    assert "Line 2 of ours.smi" in err


def test_molecules_to_watch_that_are_too_large_are_refused_before_the_first_step(here, align):
    (here / "held.smi").write_text("c1ccc2ccccc2c1\n")
    code, _, err = align(steps=1)
    assert code == 2
    assert "No molecule to validate on fits into a cell of 8 heavy atoms" in err
    assert not (here / "aligned" / "training-log.csv").exists()


def test_the_flow_aligns_too(here, monkeypatch):
    monkeypatch.setattr(flow_module, "_artifact", lambda *given: None)
    params = AlignParams(**{**SETTINGS, "steps": 1})
    facts = flow_module.align.fn(
        "ours.smi", str(here / "by-flow"), params, generator="tiny.safetensors",
        validation="held.smi", device="cpu", workers=1,
    )  # fmt: skip
    assert facts["step"] == 1
    assert load_model(facts["checkpoint"]).meta["steps"] == 1
