"""The published architecture: its sizes, its flow and its loss, and a checkpoint that samples."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.lattice import constrain, parameters_to_cell
from packflow_core.model.checkpoint import load_model
from packflow_core.model.sampler import Sampler, Schedule
from packflow_core.model.zoo import ZOO
from packflow_core.training.batches import BatchMaker, wrapped
from packflow_core.training.data import prepare
from packflow_core.training.objective import Objective, batch_plan, build_network
from packflow_core.training.params import TrainParams
from packflow_core.training.pretrain import MODEL_FILE, Trainer

SHAPE = {"d_model": 32, "nhead": 2, "num_layers": 2, "dim_feedforward": 32}
PARAMS = TrainParams(
    architecture="official", steps=4, warmup=0, cooldown=0, atoms=128, bf16=False, **SHAPE
)


@pytest.fixture(scope="module")
def data(tables):
    return prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train")


@pytest.mark.parametrize("preset", ["2M", "20M", "60M"])
def test_presets_are_the_published_models(preset):
    """The parameters of the published checkpoints, to the last one; the rate of the appendix."""
    params = TrainParams(preset=preset)
    with torch.device("meta"):
        network = build_network(params)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == ZOO[f"packflow-{preset}"].parameters
    assert (params.learning_rate, params.ema, params.lattice_weight) == (3e-5, 0.0, 1.0)
    assert params.network == TrainParams(preset=preset, learning_rate=1.0).network


def test_presets_yield_to_what_is_given():
    params = TrainParams(preset="20M", learning_rate=1e-4, num_layers=3)
    assert (params.learning_rate, params.num_layers, params.d_model) == (1e-4, 3, 320)
    wide = TrainParams(preset="60M", architecture="open")
    assert (wide.architecture, wide.d_model, wide.geometry_weight) == ("open", 640, 0.5)
    assert TrainParams(preset="open").network == TrainParams().network
    for wrong in (
        {"preset": "open", "architecture": "official"},
        {"architecture": "official", "structured_noise": True},
        {"d_model": 33, "nhead": 2},
        {"preset": "3M"},
    ):
        with pytest.raises(ValidationError):
            TrainParams(**wrong)


def test_batches_are_those_of_the_paper(data):
    """White noise that is not centred, raw lengths, logits of angles, canonical images."""
    maker = BatchMaker(data, batch_plan(PARAMS), 0)
    rng = np.random.default_rng(0)
    batch = maker.make(np.arange(len(data)), rng)
    cells = parameters_to_cell(constrain(batch.lattice0.double().numpy()))
    np.testing.assert_allclose(cells, data.cells, atol=1e-3)
    noise = batch.noise_x[batch.graph.mask]
    assert noise.var() == pytest.approx(1.0, abs=0.15)
    assert batch.noise_x.sum(1).abs().max() > 0.5
    for k in range(len(data)):  # centred, and molecule by molecule a translation of the data
        x = batch.x0[k][batch.graph.mask[k]].double().numpy()
        assert abs(x.mean(0)).max() < 1e-4
        cell, crystal = data.cells[k].astype(float), data.crystal(k)
        inside = x.reshape(crystal.shape) - x.reshape(crystal.shape).mean(1, keepdims=True)
        shapes = np.sort(np.square(inside).sum((1, 2)))
        own = crystal - crystal.mean(1, keepdims=True)
        np.testing.assert_allclose(shapes, np.sort(np.square(own).sum((1, 2))), rtol=1e-3)
        centres = crystal.mean(1) @ np.linalg.inv(cell)
        found = x.reshape(crystal.shape).mean(1) @ np.linalg.inv(cell)
        # Two molecules: their distance is that of the data up to whole lattice vectors.
        gap = abs(found[0] - found[1]) - abs(centres[0] - centres[1])
        other = abs(found[0] - found[1]) + abs(centres[0] - centres[1])
        assert (np.minimum(abs(gap - np.rint(gap)), abs(other - np.rint(other))) < 1e-3).all()


def test_central_atoms_come_into_the_cell():
    cell = np.diag([4.0, 5.0, 6.0])
    molecule = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    x = np.stack([molecule + np.array([3.5, 0.5, 0.5]), molecule + np.array([-9.5, 5.5, 12.5])])
    moved = wrapped(x, cell)
    np.testing.assert_allclose(moved[0], molecule + np.array([-0.5, 0.5, 0.5]))
    np.testing.assert_allclose(moved[1], molecule + np.array([2.5, 0.5, 0.5]))
    assert (moved[:, 1] >= 0).all()
    assert (moved[:, 1] < [4, 5, 6]).all()


def test_the_loss_is_that_of_equation_5(data):
    """Means over atoms and axes, and over the six lattice numbers, both with weight one."""
    batch = BatchMaker(data, batch_plan(PARAMS), 0)(0)

    def still(x, lattice, t_x, t_l, graph):
        assert not torch.equal(t_x, t_l)  # two times a crystal
        return torch.zeros_like(x), torch.zeros_like(lattice)

    total, x_part, l_part = Objective(PARAMS, torch.device("cpu"))(still, batch)
    per_crystal = [
        (n - x)[m].square().mean()
        for n, x, m in zip(batch.noise_x, batch.x0, batch.graph.mask, strict=True)
    ]
    assert float(x_part) == pytest.approx(float(torch.stack(per_crystal).mean()), rel=1e-5)
    expected = (batch.noise_l - batch.lattice0).square().mean()
    assert float(l_part) == pytest.approx(float(expected), rel=1e-5)
    assert float(total) == pytest.approx(float(x_part + l_part), rel=1e-5)


def test_padding_changes_nothing(data):
    """The loss of a crystal alone is that of the crystal beside a larger one."""
    torch.manual_seed(0)
    network = build_network(PARAMS)
    objective = Objective(PARAMS, torch.device("cpu"))
    maker = BatchMaker(data, batch_plan(PARAMS), 0)
    small, large = int(data.sizes().argmin()), int(data.sizes().argmax())
    both = maker.make(np.array([small, large]), np.random.default_rng(1))
    n = int(both.graph.mask[0].sum())
    assert n == data.sizes()[small]
    state = [t[:1] for t in (both.x0, both.lattice0, both.uniform[:, :1], both.uniform[:, 1:2])]
    alone = maker.make(np.array([small]), np.random.default_rng(1))
    x, lattice, t_x, t_l = state
    v_alone = network(x[:, :n], lattice, t_x, t_l, alone.graph)
    x, lattice = both.x0, both.lattice0
    v_both = network(x, lattice, both.uniform[:, :1], both.uniform[:, 1:2], both.graph)
    torch.testing.assert_close(v_both[0][:1, :n], v_alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v_both[1][:1], v_alone[1], rtol=1e-4, atol=1e-5)
    assert objective(network, both)[0].isfinite()


def test_it_learns_and_its_checkpoint_samples(data, tmp_path):
    params = PARAMS.model_copy(
        update={"steps": 150, "learning_rate": 5e-3, "ema": 0.9, "save_every": 150}
    )
    trainer = Trainer(params, data, data, tmp_path)
    before = sum(trainer.validation_loss())
    trainer.run()
    assert sum(trainer.validation_loss()) < 0.5 * before
    loaded = load_model(str(tmp_path / MODEL_FILE))
    assert loaded.preset == "official"
    assert loaded.meta["training_config"]["params"]["architecture"] == "official"
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, trainer.averaged[name]), name
    sampler = Sampler(loaded.model, Molecule.from_smiles(data.smiles[0]))
    lengths = np.array(
        [s.parameters[:3] for s in sampler.sample(2, range(8), 0, Schedule(steps=10))]
    )
    # Raw lengths in Å are what the network learned first: cells are 5 to 8 Å wide.
    assert 4 < np.median(lengths) < 10
