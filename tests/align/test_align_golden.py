"""Advantages, surrogate losses and objective against numbers of the published code."""

from pathlib import Path

import pytest
import torch

from packflow_core.align.advantages import mixed_advantages
from packflow_core.align.objective import clipped_objective
from packflow_core.align.surrogate import FrozenDraw, surrogate_losses
from packflow_core.crystal.lattice import unconstrain
from packflow_core.model.batch import GraphBatch
from packflow_core.model.checkpoint import load_model
from packflow_core.training.batches import TrainingBatch

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
#: Crystal 1 of the golden batch: acetic acid, Z = 4, after the 12 atoms of benzene.
FIRST, SIZE, GROUP = 12, 16, 3


@pytest.fixture(scope="module")
def golden():
    content = torch.load(GOLDEN / "outputs_small.pt", weights_only=True)
    return {k.removeprefix("grpo/"): v for k, v in content.items() if k.startswith("grpo/")}


@pytest.fixture(scope="module")
def draw(golden):
    inputs = torch.load(GOLDEN / "inputs.pt", weights_only=True)
    edges = inputs["edge_index"]
    own = edges[0] >= FIRST
    n_edges = int(own.sum())
    copies = torch.arange(GROUP).repeat_interleave(n_edges)[None]
    graph = GraphBatch(
        numbers=inputs["atom_types"][FIRST:].expand(GROUP, -1),
        node_features=inputs["node_features"][FIRST:].expand(GROUP, -1, -1),
        pair_code=torch.zeros(GROUP, SIZE, SIZE, dtype=torch.long),
        edge_index=torch.cat([copies, (edges[:, own] - FIRST).repeat(1, GROUP)]),
        edge_features=inputs["bond_features"][own].repeat(GROUP, 1),
        mask=torch.ones(GROUP, SIZE, dtype=torch.bool),
        molecule=torch.zeros(GROUP, SIZE, dtype=torch.long),
        z=torch.full((GROUP,), 4),
    )
    lattice = unconstrain(golden["lattice_params"].double().numpy())
    batch = TrainingBatch(
        graph=graph,
        x0=golden["x"],
        lattice0=torch.as_tensor(lattice, dtype=torch.float32),
        noise_x=golden["noise_x"],
        noise_l=golden["noise_lattice"][:, 0],
        volume=torch.ones(GROUP, 1),
        uniform=torch.zeros(GROUP, 3),
    )
    return FrozenDraw(list(range(GROUP)), batch, golden["t"][:, 0])


@pytest.fixture(scope="module")
def losses(draw):
    with torch.no_grad():
        return {
            name: surrogate_losses(load_model(str(GOLDEN / file)).model.eval(), draw)
            for name, file in (("old", "small_best_model.pt"), ("new", "small_pa_best_model.pt"))
        }


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_advantages_are_those_of_the_published_code(golden, share):
    found = mixed_advantages(golden["energies"].numpy(), golden["forces"].numpy(), share)
    # Energies near -100 in single precision leave 3e-6 in an advantage.
    assert found == pytest.approx(golden[f"adv_lambda{share}"].numpy(), abs=1e-5)


@pytest.mark.parametrize("which", ["old", "new"])
def test_surrogate_losses_are_those_of_the_published_code(golden, losses, which):
    assert losses[which].numpy() == pytest.approx(golden[f"{which}_loss"].numpy(), rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_objective_is_that_of_the_published_code(golden, losses, share):
    found = clipped_objective(
        losses["new"], losses["old"], losses["old"], golden[f"adv_lambda{share}"],
        clip=0.2, kl_weight=1.0,
    )  # fmt: skip
    # Losses near 50 in single precision carry 4e-6, which the difference of two shows.
    assert found.loss.item() == pytest.approx(golden[f"loss_lambda{share}"].item(), abs=1e-5)
