"""Loss, times and the local geometry term."""

import pytest
import torch

from packflow_core.model.flow import flow_loss, interpolate, local_geometry_loss, make_times


@pytest.fixture
def state():
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(3, 5, 3, generator=g), torch.randn(3, 5, 3, generator=g)
    l0, l_eps = torch.randn(3, 6, generator=g), torch.randn(3, 6, generator=g)
    t = torch.tensor([[0.1], [0.3], [0.9]])
    return x0, l0, interpolate(x0, l0, eps, l_eps, t, t)


def test_true_velocity_leads_back_to_the_data(state):
    x0, l0, s = state
    torch.testing.assert_close(s.x - s.t_x[..., None] * s.v_x, x0)
    torch.testing.assert_close(s.lattice - s.t_l * s.v_l, l0)
    mask = torch.ones(3, 5, dtype=torch.bool)
    assert float(flow_loss(s.v_x, s.v_l, s, mask)[0]) == 0.0


def test_padding_does_not_count_and_units_do(state):
    _, _, s = state
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:] = False
    wrong = s.v_x.clone()
    wrong[0, 3:] += 100.0
    assert float(flow_loss(wrong, s.v_l, s, mask)[1]) == 0.0
    shifted = s.v_x + 2.0
    assert float(flow_loss(shifted, s.v_l, s, mask)[1]) == pytest.approx(4.0, rel=1e-5)
    halved = flow_loss(shifted, s.v_l, s, mask, coordinate_unit=2.0)[1]
    assert float(halved) == pytest.approx(1.0, rel=1e-5)


def test_local_geometry_ignores_rigid_moves_and_late_times(state):
    x0, _, s = state
    near = torch.zeros(3, 5, 5, dtype=torch.bool)
    near[:, 0, 1] = near[:, 1, 0] = True
    assert float(local_geometry_loss(s.v_x, s, x0, near)) == pytest.approx(0.0, abs=1e-8)
    assert float(local_geometry_loss(s.v_x + 3.0, s, x0, near)) == pytest.approx(0.0, abs=1e-8)
    wrong = s.v_x.clone()
    wrong[2, 0] += 5.0  # t = 0.9, past t_max
    assert float(local_geometry_loss(wrong, s, x0, near)) == pytest.approx(0.0, abs=1e-8)
    wrong[0, 0] += 5.0
    assert float(local_geometry_loss(wrong, s, x0, near)) > 1e-3


def test_shared_and_independent_times():
    u = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    t_x, t_l = make_times(u, shared_fraction=0.25)
    assert float((t_x == t_l).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(make_times(u, power=2.0)[0].mean()) == pytest.approx(1 / 3, abs=0.02)
