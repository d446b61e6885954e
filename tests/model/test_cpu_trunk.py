"""Inference paths: the same numbers as the plain modules, and no large tensors of pairs."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from packflow_core.chem.features import molecular_graph
from packflow_core.chem.molecule import Molecule
from packflow_core.model.attention import Trunk
from packflow_core.model.batch import make_graph_batch
from packflow_core.model.cpu_trunk import CpuTrunk, inference_trunk
from packflow_core.model.official import OfficialConfig, OfficialPackFlow
from packflow_core.model.open_model import OpenConfig, OpenPackFlow

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


class Largest(TorchDispatchMode):
    """Records the largest tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes():
                self.numel = max(
                    self.numel, value.untyped_storage().nbytes() // value.element_size()
                )
        return result


def shaken(module):
    """The module with every parameter moved, so that biases and norms matter."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module.eval()


@pytest.mark.parametrize("dim_feedforward", [48, 6000])  # one piece, and several with a rest
@pytest.mark.parametrize("shared", [True, False])
def test_cpu_trunk_computes_what_the_modules_do(dim_feedforward, shared):
    torch.manual_seed(0)
    trunk = shaken(Trunk(32, 4, dim_feedforward, 3)).double()
    h = torch.randn(3, 17, 32, dtype=torch.float64)
    shape = (1 if shared else 3, 4, 17, 17)
    biases = [torch.randn(shape, dtype=torch.float64) for _ in range(3)]
    biases[1][..., 5] = float("-inf")  # a padded key
    fast = CpuTrunk(trunk)(h.clone(), iter(biases))
    torch.testing.assert_close(fast, trunk(h, biases), rtol=1e-10, atol=1e-10)
    repeated = CpuTrunk(trunk)(h.clone(), itertools.repeat(biases[0]))
    torch.testing.assert_close(repeated, trunk(h, [biases[0]] * 3), rtol=1e-10, atol=1e-10)


def test_copy_is_taken_on_the_cpu_only_and_keeps_its_weights():
    torch.manual_seed(0)
    trunk = shaken(Trunk(16, 2, 32, 2))
    on_gpu = Trunk(16, 2, 32, 2).to("meta")
    assert inference_trunk(on_gpu) is on_gpu
    copy = inference_trunk(trunk)
    assert isinstance(copy, CpuTrunk)
    h, bias = torch.randn(1, 5, 16), torch.zeros(1, 2, 5, 5)
    expected = copy(h.clone(), [bias, bias])
    with torch.no_grad():
        trunk.layers[0].linear2.bias.add_(1.0)
        trunk.layers[1].mha.in_proj_weight.mul_(2.0)
        trunk.layers[1].norm1.weight.mul_(2.0)
        trunk.norm.bias.add_(1.0)
    assert torch.equal(copy(h, [bias, bias]), expected)


def crystals(z, b, dtype=torch.float32):
    graph = make_graph_batch([molecular_graph(Molecule.from_smiles(ASPIRIN)).tiled(z)])
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(b, 13 * z, 3, generator=generator, dtype=dtype)
    lattice = 0.5 * torch.randn(b, 6, generator=generator, dtype=dtype)
    return graph, x - x.mean(1, keepdim=True), lattice, torch.tensor([[0.4]], dtype=dtype)


def test_official_bias_is_one_for_all_candidates():
    torch.manual_seed(0)
    model = OfficialPackFlow(OfficialConfig(32, 8, 2, 64)).eval()
    graph, x, lattice, t = crystals(8, 4)
    n = x.shape[1]
    with torch.no_grad():
        context = model.context(graph, inference_trunk(model.transformer))
        assert context.bias.shape == (1, 8, n, n)
        assert context.bias.untyped_storage().nbytes() == 4 * 8 * n * n
        with Largest() as largest:
            model(x, lattice, t, t, graph, context)
    assert largest.numel < 8 * n * n  # not even one dense [H, N, N], with four candidates


def test_official_tokens_stay_in_full_precision_under_autocast():
    torch.manual_seed(0)
    model = OfficialPackFlow(OfficialConfig(32, 8, 2, 64)).eval()
    graph, x, lattice, t = crystals(2, 3)
    seen = []

    def trunk(h, biases):
        seen.append(h.dtype)
        return model.transformer(h, biases)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        v, v_l = model(x, lattice, t, t, graph, model.context(graph, trunk))
    assert seen == [torch.float32]
    assert v.dtype == v_l.dtype == torch.float32


def test_open_biases_are_made_one_layer_at_a_time():
    torch.manual_seed(0)
    config = OpenConfig(d_model=32, nhead=8, num_layers=6, dim_feedforward=64, pair_dim=8)
    model = shaken(OpenPackFlow(config))
    graph, x, lattice, t = crystals(8, 2)
    n, volume = x.shape[1], torch.tensor([[1500.0]])
    with torch.no_grad():
        context = model.context(graph, inference_trunk(model.trunk))
        with Largest() as largest:
            v, v_l = model(x, lattice, t, t, graph, volume, context)
        plain, plain_l = model(
            x, lattice, t.expand(2, 1), t.expand(2, 1), graph, volume.expand(2, 1)
        )
    # 28 radial functions are the most; all layers at once would be 64 channels.
    assert largest.numel <= 2 * 28 * n * n
    torch.testing.assert_close(v, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(v_l, plain_l, rtol=1e-4, atol=1e-5)
