"""The official preset against numbers of the published classes (random weights, float32)."""

from pathlib import Path

import pytest
import torch

from packflow_core.model.batch import GraphBatch
from packflow_core.model.checkpoint import load_model
from packflow_core.model.cpu_trunk import CpuTrunk
from packflow_core.model.flow import flow_loss, interpolate
from packflow_core.model.solvers import integrate

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SIZES = (12, 16)  # benzene Z=2, acetic acid Z=4


@pytest.fixture(scope="module")
def inputs():
    return torch.load(GOLDEN / "inputs.pt", weights_only=True)


@pytest.fixture(scope="module")
def expected():
    return torch.load(GOLDEN / "outputs_small.pt", weights_only=True)


@pytest.fixture
def model():
    loaded = load_model(str(GOLDEN / "small_best_model.pt"))
    assert loaded.preset == "official"
    return loaded.model


def padded(flat, batch):
    out = torch.zeros(2, max(SIZES), *flat.shape[1:], dtype=flat.dtype)
    for b, n in enumerate(SIZES):
        out[b, :n] = flat[batch == b]
    return out


@pytest.fixture(scope="module")
def graph(inputs):
    batch, edges = inputs["batch"], inputs["edge_index"]
    first = torch.tensor([0, SIZES[0]])
    crystal = batch[edges[0]]
    mask = torch.arange(max(SIZES))[None] < torch.tensor(SIZES)[:, None]
    return GraphBatch(
        numbers=padded(inputs["atom_types"], batch),
        node_features=padded(inputs["node_features"], batch),
        pair_code=torch.zeros(2, 16, 16, dtype=torch.long),
        edge_index=torch.stack([crystal, edges[0] - first[crystal], edges[1] - first[crystal]]),
        edge_features=inputs["bond_features"],
        mask=mask,
        molecule=torch.zeros(2, 16, dtype=torch.long),
        z=torch.tensor([2, 4]),
    )


@pytest.fixture(scope="module")
def state(inputs):
    batch = inputs["batch"]
    return interpolate(
        padded(inputs["x0"], batch),
        inputs["lattice_unconstrained"],
        padded(inputs["noise_x"], batch),
        inputs["noise_lattice"],
        inputs["t_x"],
        inputs["t_lattice"],
    )


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_states_and_fields(model, graph, state, expected):
    close(state.x[graph.mask], expected["fm/x_t"])
    close(state.lattice, expected["fm/lattice_t"])
    v_x, v_l = model(state.x, state.lattice, state.t_x, state.t_l, graph)
    close(v_x[graph.mask], expected["fm/pred_cart"])
    close(v_l, expected["fm/pred_lattice"])


def test_loss_and_gradients(model, graph, state, expected):
    v_x, v_l = model(state.x, state.lattice, state.t_x, state.t_l, graph)
    total, x_part, l_part = flow_loss(v_x, v_l, state, graph.mask)
    close(total, expected["fm/total_loss"])
    close(x_part, expected["fm/cart_loss"])
    close(l_part, expected["fm/lattice_loss"])
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    close(norm, expected["grad/global_norm"])
    names = [k.removeprefix("grad/") for k in expected if k.startswith("grad/")]
    for name in set(names) - {"global_norm"}:
        full = "attn_bias_builder.head_bias_base" if name == "head_bias_base" else name
        close(gradients[full], expected[f"grad/{name}"])


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("kind", ["module", "cpu"])
def test_ode(model, graph, inputs, expected, steps, kind):
    shared = model.context(graph, CpuTrunk(model.transformer) if kind == "cpu" else None)

    def field(x, lattice, t):
        times = x.new_full((1, 1), t)
        return model(x, lattice, times, times, graph, shared)

    with torch.no_grad():
        x, lattice = integrate(
            field, padded(inputs["init_x"], inputs["batch"]), inputs["init_lattice"], steps
        )
    close(x[graph.mask], expected[f"ode{steps}/final_x"])
    close(lattice, expected[f"ode{steps}/final_lattice_unconstrained"])


def test_post_trained_layout_loads_and_keeps_its_settings():
    loaded = load_model(str(GOLDEN / "small_pa_best_model.pt"))
    assert "grpo_config" in loaded.meta["training_config"]
    base = load_model(str(GOLDEN / "small_best_model.pt"))
    assert loaded.sha256 != base.sha256
    assert not torch.equal(loaded.model.transformer.norm.weight, base.model.transformer.norm.weight)


def test_padding_and_shared_context_do_not_change_a_crystal(model, graph, state):
    keep = graph.edge_index[0] == 1
    edges = graph.edge_index[:, keep].clone()
    edges[0] = 0
    per_crystal = {
        k: v[1:2]
        for k, v in vars(graph).items()
        if k not in ("edge_index", "edge_features", "padded")
    }
    alone = GraphBatch(**per_crystal, edge_index=edges, edge_features=graph.edge_features[keep])
    both_x, both_l = model(state.x, state.lattice, state.t_x, state.t_l, graph)
    one = slice(1, 2)
    x, lattice = model(
        state.x[one].repeat(3, 1, 1), state.lattice[one].repeat(3, 1), state.t_x[one].repeat(3, 1),
        state.t_l[one].repeat(3, 1), alone, model.context(alone),
    )  # fmt: skip
    close(x[2], both_x[1])
    close(lattice[2], both_l[1])
