"""The clipped objective of group relative policy optimisation (PackFlow, eq. 18 to 22).

The surrogate loss of a candidate stands for minus the logarithm of its probability, so differences
of losses are logarithms of ratios.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Logarithms of ratios are cut off here before they are exponentiated.
LOG_RATIO_LIMIT = 5.0


@dataclass(frozen=True)
class Objective:
    """What is minimised, and what a curve should show of it.

    Attributes:
        loss: scalar, with its gradient: minus eq. 22.
        ratio: mean importance ratio (eq. 18).
        clipped: fraction of the candidates whose ratio lies outside the clip range.
        divergence: mean divergence from the reference (eq. 20).
        log_ratio: mean logarithm of the ratio; 0 before the first step.
    """

    loss: Tensor
    ratio: float
    clipped: float
    divergence: float
    log_ratio: float


def importance_ratio(new: Tensor, old: Tensor, limit: float = LOG_RATIO_LIMIT) -> Tensor:
    """[K] ratios of the policies, new over old, from surrogate losses (eq. 18)."""
    return torch.exp(torch.clamp(old - new, -limit, limit))


def divergence(new: Tensor, reference: Tensor) -> Tensor:
    """[K] Schulman's estimate of the divergence from the reference (eq. 19 and 20).

    Not cut off, as in the published code: it must pull the harder the further a policy is away.
    """
    delta = new - reference
    return torch.exp(delta) - delta - 1.0


def clipped_objective(
    new: Tensor,
    old: Tensor,
    reference: Tensor,
    advantages: Tensor,
    *,
    clip: float = 0.2,
    kl_weight: float | Tensor = 1.0,
    log_ratio_limit: float = LOG_RATIO_LIMIT,
) -> Objective:
    """Minus the objective of eq. 22, the mean over candidates.

    Args:
        new: [K] surrogate losses of the policy, with gradient.
        old: [K] those of the policy that made the candidates.
        reference: [K] those of the frozen reference.
        advantages: [K].
        clip: ratios count from 1 - clip to 1 + clip.
        kl_weight: beta of the paper; [K] for one a candidate.
        log_ratio_limit: see `LOG_RATIO_LIMIT`.
    """
    ratio = importance_ratio(new, old, log_ratio_limit)
    gain = torch.minimum(
        ratio * advantages, torch.clamp(ratio, 1.0 - clip, 1.0 + clip) * advantages
    )
    away = divergence(new, reference)
    loss = (kl_weight * away - gain).mean()
    with torch.no_grad():
        outside = ((ratio - 1.0).abs() > clip).float().mean()
        return Objective(
            loss,
            float(ratio.mean()),
            float(outside),
            float(away.mean()),
            float((old - new).mean()),
        )
