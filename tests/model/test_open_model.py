"""The open network: symmetries it must have, and its lattice map."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.chem.features import molecular_graph
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.model.batch import make_graph_batch
from packflow_core.model.open_model import (
    OpenConfig,
    OpenPackFlow,
    decode_cell,
    decode_lattice,
    encode_lattice,
)

SMALL = OpenConfig(d_model=32, nhead=4, num_layers=2, dim_feedforward=64, pair_dim=8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = OpenPackFlow(SMALL).double()
    with torch.no_grad():  # the heads start at zero: give every path a say
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def crystal_inputs(smiles, z, seed=0):
    graph = molecular_graph(Molecule.from_smiles(smiles)).tiled(z)
    generator = torch.Generator().manual_seed(seed)
    n = len(graph.numbers)
    x = 3 * torch.randn(1, n, 3, generator=generator, dtype=torch.float64)
    return (
        graph,
        x - x.mean(1, keepdim=True),
        torch.randn(1, 6, generator=generator, dtype=torch.float64),
    )


TIMES = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
VOLUME = torch.tensor([[400.0]], dtype=torch.float64)


def test_velocity_is_centred_and_batch_mates_do_not_matter(model):
    small, x_s, l_s = crystal_inputs("CC(=O)O", 2)
    large, x_l, l_l = crystal_inputs("Clc1ccccc1", 2, seed=1)
    alone, lattice_alone = model(x_s, l_s, *TIMES, make_graph_batch([small]), VOLUME)
    padded = torch.zeros(1, x_l.shape[1], 3, dtype=torch.float64)
    padded[:, : x_s.shape[1]] = x_s
    together, lattice_together = model(
        torch.cat([padded, x_l]), torch.cat([l_s, l_l]), *(t.expand(2, 1) for t in TIMES),
        make_graph_batch([small, large]), VOLUME.expand(2, 1),
    )  # fmt: skip
    torch.testing.assert_close(together[:1, : x_s.shape[1]], alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(lattice_together[:1], lattice_alone, rtol=1e-9, atol=1e-9)
    assert together[0, x_s.shape[1] :].abs().max() == 0
    assert alone.sum(1).abs().max() < 1e-10
    assert alone.abs().max() > 1e-3


def test_order_of_equal_molecules_is_free(model):
    graph, x, lattice = crystal_inputs("CC(=O)O", 3)
    batch = make_graph_batch([graph])
    v, v_l = model(x, lattice, *TIMES, batch, VOLUME)
    swap = torch.tensor([2, 0, 1])
    order = (swap[:, None] * 4 + torch.arange(4)).reshape(-1)
    w, w_l = model(x[:, order], lattice, *TIMES, batch, VOLUME)
    torch.testing.assert_close(w, v[:, order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(w_l, v_l, rtol=1e-9, atol=1e-9)


def test_one_context_serves_many_candidates(model):
    graph, x, lattice = crystal_inputs("CC(=O)O", 2)
    batch = make_graph_batch([graph])
    context = model.context(batch)
    many = torch.cat([x, 2 * x, -x])
    times = [t.expand(3, 1) for t in TIMES]
    v, _ = model(many, lattice.expand(3, 6), *times, batch, VOLUME.expand(3, 1), context)
    one, _ = model(-x, lattice, *TIMES, batch, VOLUME)
    torch.testing.assert_close(v[2:], one, rtol=1e-9, atol=1e-9)


def test_bond_order_reaches_the_output(model):
    single, x, lattice = crystal_inputs("CCC", 2)
    double, _, _ = crystal_inputs("C=CC", 2)
    same_atoms = double.__class__(**{**vars(double), "node_features": single.node_features})
    v, _ = model(x, lattice, *TIMES, make_graph_batch([single]), VOLUME)
    w, _ = model(x, lattice, *TIMES, make_graph_batch([same_atoms]), VOLUME)
    assert (v - w).abs().max() > 1e-4


def test_gradients_agree_with_finite_differences(model):
    """In a padded batch, through activations that are computed in place."""
    small, x_s, l_s = crystal_inputs("CC(=O)O", 2)
    large, x_l, l_l = crystal_inputs("Clc1ccccc1", 2, seed=1)
    x = torch.zeros(2, x_l.shape[1], 3, dtype=torch.float64)
    x[0, : x_s.shape[1]], x[1] = x_s[0], x_l[0]
    lattice, batch = torch.cat([l_s, l_l]), make_graph_batch([small, large])
    generator = torch.Generator().manual_seed(3)
    out_x = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    out_l = torch.randn(lattice.shape, generator=generator, dtype=torch.float64)

    def loss(x, lattice):
        times = (t.expand(2, 1) for t in TIMES)
        v, v_l = model(x, lattice, *times, batch, VOLUME.expand(2, 1))
        return (v * out_x).sum() + (v_l * out_l).sum()

    inputs = [x.requires_grad_(), lattice.requires_grad_()]
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(*inputs), inputs + parameters)
    ways = [torch.randn(g.shape, generator=generator, dtype=torch.float64) for g in gradients]
    for moved in (inputs, parameters):
        places = range(2) if moved is inputs else range(2, len(gradients))
        slope = sum((gradients[k] * ways[k]).sum() for k in places)
        ends = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                for tensor, k in zip(moved, places, strict=True):
                    tensor.add_(ways[k], alpha=step)
                ends.append(loss(*inputs))
            for tensor, k in zip(moved, places, strict=True):
                tensor.add_(ways[k], alpha=1e-6)
        torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, slope, rtol=1e-5, atol=1e-6)


def test_autocast_leaves_the_geometry_alone(monkeypatch):
    """Products in half precision would move atoms by hundredths of an Å."""
    torch.manual_seed(0)
    net, seen = OpenPackFlow(SMALL).eval(), []
    graph, x, lattice = crystal_inputs("CC(=O)O", 2)

    def recorded(h, vectors, bias, gate):
        seen.append((vectors, bias.dtype))
        return torch.zeros_like(vectors[:, 0])

    monkeypatch.setattr(net, "_along_vectors", recorded)
    inputs = [t.float() for t in (x, lattice, *TIMES)]
    with torch.no_grad():
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                v, v_l = net(*inputs, make_graph_batch([graph]), VOLUME.float())
            assert v.dtype == v_l.dtype == torch.float32
    assert [dtype for _, dtype in seen] == [torch.float32, torch.bfloat16]
    assert torch.equal(seen[0][0], seen[1][0])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(3, 30), min_size=3, max_size=3),
    st.lists(st.floats(70, 110), min_size=3, max_size=3),
)
def test_lattice_map_is_inverted_and_torch_agrees(lengths, angles):
    parameters = np.array(lengths + angles)
    state = encode_lattice(parameters, 500.0)
    np.testing.assert_allclose(decode_lattice(state, 500.0), parameters, rtol=1e-9)
    cell = decode_cell(torch.tensor(state)[None], torch.tensor([[500.0]], dtype=torch.float64))
    np.testing.assert_allclose(cell[0].numpy(), parameters_to_cell(parameters), atol=1e-8)
