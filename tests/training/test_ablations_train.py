"""Ablations of the paper's table 1: trained, written, loaded and sampled."""

import pytest
import torch
from pydantic import ValidationError

from flows import cli
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.model.ablations import AblatedPackFlow
from packflow_core.model.checkpoint import convert, load_model
from packflow_core.model.sampler import Sampler, Schedule
from packflow_core.training.data import prepare
from packflow_core.training.params import TrainParams
from packflow_core.training.pretrain import MODEL_FILE, Trainer
from packflow_core.training.start import load_start

SHAPE = {"d_model": 16, "nhead": 2, "num_layers": 1, "dim_feedforward": 16}


@pytest.fixture(scope="module")
def data(tables):
    return prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train")


@pytest.mark.parametrize("bonds", ["none", "gnn"])
def test_an_ablation_trains_loads_converts_and_samples(data, tmp_path, bonds):
    params = TrainParams(
        architecture="official", bonds=bonds, steps=4, warmup=0, cooldown=0, ema=0.0, atoms=64,
        save_every=2, **SHAPE,
    )  # fmt: skip
    trainer = Trainer(params, data, data, tmp_path / "one")
    before = {k: v.clone() for k, v in trainer.model.named_parameters()}
    trainer.run()
    # Every weight takes part, so that none is left over when ranks average.
    still = [k for k, v in trainer.model.named_parameters() if torch.equal(v, before[k])]
    assert not still
    path = tmp_path / "one" / MODEL_FILE
    for loaded in (load_model(str(path)), convert(str(path), tmp_path / "again.safetensors")):
        assert isinstance(loaded.model, AblatedPackFlow)
        assert loaded.model.config == params.network
        for name, value in loaded.model.state_dict().items():
            assert torch.equal(value, trainer.averaged[name]), name
    schedule = Schedule(steps=3)
    samples = Sampler(loaded.model, Molecule.from_smiles("CC(=O)O")).sample(2, [0, 5], 0, schedule)
    assert all(torch.from_numpy(s.positions).isfinite().all() for s in samples)
    plain = params.model_copy(update={"bonds": "bias"})
    with pytest.raises(UserInputError, match="another shape"):
        Trainer(plain, data, data, tmp_path / "two", start=load_start(str(path)))


def test_bonds_belong_to_the_official_architecture():
    with pytest.raises(ValidationError, match="official architecture alone"):
        TrainParams(bonds="none")


def test_the_options_of_the_paper(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(
        "flows.train_commands.train",
        lambda terminal, data, out, settings, **more: seen.update(settings),
    )
    common = ["train", "--data", str(tmp_path), "--out", str(tmp_path), "--preset", "60M"]
    cli.app([*common, "--ablation", "bond-gnn", "--ablation", "shared-time"], standalone_mode=False)
    params = TrainParams.model_validate(seen)
    assert (params.bonds, params.shared_fraction, params.d_model) == ("gnn", 1.0, 640)
    with pytest.raises(UserInputError, match="one of them"):
        cli.app(
            [*common, "--ablation", "no-bonds", "--ablation", "bond-gnn"], standalone_mode=False
        )
