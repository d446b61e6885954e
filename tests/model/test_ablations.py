"""The ablated networks: what they see of the bonds, and what they do not."""

import numpy as np
import pytest
import torch

from packflow_core.chem.features import molecular_graph
from packflow_core.chem.molecule import Molecule
from packflow_core.model.ablations import AblatedConfig, AblatedPackFlow, BondAttention
from packflow_core.model.batch import make_graph_batch

SHAPE = {"d_model": 16, "nhead": 2, "num_layers": 2, "dim_feedforward": 16}


def graph_of(smiles, z=1):
    return molecular_graph(Molecule.from_smiles(smiles)).tiled(z)


def inputs(b, n):
    generator = torch.Generator().manual_seed(0)
    t = torch.full((b, 1), 0.3)
    return (
        torch.randn(b, n, 3, generator=generator), torch.randn(b, 6, generator=generator), t, t,
    )  # fmt: skip


def network(bonds):
    torch.manual_seed(0)
    return AblatedPackFlow(AblatedConfig(**SHAPE, bonds=bonds)).eval()


def test_graph_attention_is_gatv2():
    """Against the sum written out, atom by atom (Brody et al., eq. 7, with edge features)."""
    torch.manual_seed(1)
    layer, d, heads = BondAttention(8, 2), 8, 2
    h = torch.randn(4, d)
    edges = torch.tensor([[0, 1, 1, 2, 0, 1, 2, 3], [1, 0, 2, 1, 0, 1, 2, 3]])
    features = torch.randn(8, 2)
    found = layer(h, edges, features)
    for atom in range(4):
        incoming = [e for e in range(8) if int(edges[1, e]) == atom]
        for head in range(heads):
            part = slice(head * d // heads, (head + 1) * d // heads)
            logits, values = [], []
            for e in incoming:
                source = layer.source(h[edges[0, e]])
                mixed = source + layer.target(h[atom]) + layer.edge(features[e])
                mixed = torch.where(mixed > 0, mixed, 0.2 * mixed)
                logits.append((mixed[part] * layer.score[head]).sum())
                values.append(source[part])
            weights = torch.stack(logits).softmax(0)
            expected = (weights[:, None] * torch.stack(values)).sum(0)
            torch.testing.assert_close(found[atom, part], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bonds", ["none", "gnn"])
def test_what_a_bond_changes(bonds):
    """Only the model with graph attention notices which atoms are bonded."""
    graph = make_graph_batch([graph_of("CCO", 2)])
    moved = make_graph_batch([graph_of("CCO", 2)])
    # The bonds of the second molecule, told of other atoms.
    moved.edge_index[1:] = torch.roll(torch.arange(6), 1)[moved.edge_index[1:]]
    model, x = network(bonds), inputs(1, 6)
    with torch.no_grad():
        same = torch.allclose(model(*x, graph)[0], model(*x, moved)[0], atol=1e-6)
    assert same == (bonds == "none")


@pytest.mark.parametrize("bonds", ["none", "gnn"])
def test_one_graph_for_all_is_a_graph_for_each(bonds):
    model = network(bonds)
    one, three = (make_graph_batch([graph_of("NC(N)=O", 2)] * k) for k in (1, 3))
    x, lattice, t_x, t_l = inputs(3, 8)
    with torch.no_grad():
        expected = model(x, lattice, t_x, t_l, three)
        shared = model(x, lattice, t_x[:1], t_l[:1], one, model.context(one))
    for a, b in zip(shared, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bonds", ["none", "gnn"])
def test_padding_changes_nothing(bonds):
    model = network(bonds)
    both = make_graph_batch([graph_of("CO", 1), graph_of("NC(N)=O", 2)])
    alone = make_graph_batch([graph_of("CO", 1)])
    x, lattice, t_x, t_l = inputs(2, 8)
    x = x * both.mask[..., None]
    with torch.no_grad():
        padded = model(x, lattice, t_x, t_l, both)
        bare = model(x[:1, :2], lattice[:1], t_x[:1], t_l[:1], alone)
    torch.testing.assert_close(padded[0][:1, :2], bare[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded[1][:1], bare[1], rtol=1e-4, atol=1e-5)
    assert np.isfinite(padded[0].numpy()).all()


def test_a_molecule_of_one_atom_has_a_loop():
    with torch.no_grad():
        v_x, _ = network("gnn")(*inputs(1, 2), make_graph_batch([graph_of("C", 2)]))
    assert v_x.isfinite().all()
