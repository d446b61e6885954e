"""The update of an alignment's step: a few optimiser steps on the rollouts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from packflow_core.align.objective import clipped_objective, divergence
from packflow_core.align.params import AlignParams
from packflow_core.align.surrogate import FrozenDraw, surrogate_losses
from packflow_core.model.checkpoint import Model


@dataclass(frozen=True)
class WeighedDraw:
    """Candidates at a frozen time and noise, with what they teach.

    Attributes:
        draw: the candidates.
        advantages: [B] of each.
        kl_weights: [B] weight of the divergence for each.
    """

    draw: FrozenDraw
    advantages: Tensor
    kl_weights: Tensor


def update(
    policy: Model,
    reference: Model,
    optimizer: torch.optim.Optimizer,
    draws: Sequence[WeighedDraw],
    params: AlignParams,
    learning_rate: float,
) -> dict[str, float]:
    """Move the policy by `params.epochs` optimiser steps at most (PackFlow, eq. 18 to 22).

    Args:
        policy: has sampled the candidates; is changed.
        reference: frozen.
        optimizer: of the policy.
        draws: all candidates of the batch.
        params: of the objective, and when to end the epochs early.
        learning_rate: of this batch.

    Returns:
        Columns of the log, of the last pass over the batch; `divergence` is that from the
        reference, `moved` that from the policy that sampled.
    """
    with torch.no_grad():
        frozen = [surrogate_losses(reference, d.draw, params.lattice_weight) for d in draws]
    # The first pass is that of the policy which has sampled, so it gives the old losses, too.
    old: list[Tensor] = []
    total = sum(len(d.draw.members) for d in draws)
    facts: dict[str, float] = {}
    epochs = 0
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    for _ in range(params.epochs):
        optimizer.zero_grad(set_to_none=True)
        names = ("loss", "ratio", "clipped", "divergence", "moved")
        facts = dict.fromkeys(names, 0.0)
        for number, one in enumerate(draws):
            new = surrogate_losses(policy, one.draw, params.lattice_weight)
            if number == len(old):
                old.append(new.detach())
            found = clipped_objective(
                new, old[number], frozen[number], one.advantages,
                clip=params.clip, kl_weight=one.kl_weights,
            )  # fmt: skip
            share = len(one.draw.members) / total
            (found.loss * share).backward()
            moved = float(divergence(new.detach(), old[number]).mean())
            values = (found.loss.item(), found.ratio, found.clipped, found.divergence, moved)
            for name, value in zip(names, values, strict=True):
                facts[name] += share * value
        if params.ratio_stop and facts["moved"] > params.ratio_stop:
            break
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), params.max_norm)
        facts["gradient"] = float(norm)
        if torch.isfinite(norm):
            optimizer.step()
        epochs += 1
    return {**facts, "epochs": float(epochs)}
