"""Energies shaped along the way from noise to a candidate (Elign).

A candidate that was as good as decided at time t owes nothing to what the policy does after t. The
potential of a state is the energy of the crystal that the policy expects there, its clean-sample
estimate; what counts at a time is how far below it the candidate came in the end. Sums of such
differences along a way telescope, so the best policy stays the same (Ng, Harada and Russell, 1999),
as far as the standardisation inside a group leaves that true.

Source: Elign, "FED-GRPO": potential-based shaping of energies, for the denoising steps of diffusion
models. Here the states are those at which candidates are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from packflow_core.align.advantages import mixed_advantages
from packflow_core.align.member import Member
from packflow_core.align.params import AlignParams
from packflow_core.align.rewards import Score, group_rewards
from packflow_core.align.surrogate import FrozenDraw, predicted_velocity
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.lattice import constrain
from packflow_core.model.checkpoint import Model
from packflow_core.model.open_model import OpenPackFlow, decode_lattice
from packflow_core.model.sampler import Sample
from packflow_core.stages.generate import sample_row
from packflow_core.stages.generate_params import GenerateParams
from packflow_core.store.rows import Row

FloatArray = NDArray[np.float64]


@torch.no_grad()
def clean_samples(model: Model, draw: FrozenDraw) -> list[Sample]:
    """What the policy expects at the end of the way, in one step from each state of a draw.

    Args:
        model: the policy.
        draw: states of B candidates.
    """
    state, v_x, v_l = predicted_velocity(model, draw)
    x = (state.x - state.t_x[..., None] * v_x).double().cpu().numpy()
    lattice = (state.lattice - state.t_l * v_l).double().cpu().numpy()
    counts = draw.batch.graph.mask.sum(1).tolist()
    volumes = draw.batch.volume[:, 0].double().cpu().numpy()
    parameters = (
        decode_lattice(lattice, volumes) if isinstance(model, OpenPackFlow) else constrain(lattice)
    )
    return [Sample(x[k, : int(n)], parameters[k]) for k, n in enumerate(counts)]


def estimate_rows(
    model: Model, draw: FrozenDraw, smiles: Sequence[str], z: Sequence[int]
) -> list[Row]:
    """The clean-sample estimates of a draw as rows of the stage `generate`.

    Args:
        model: the policy.
        draw: states of B candidates.
        smiles, z: [B] of each.
    """
    samples = clean_samples(model, draw)
    settings = GenerateParams()
    return [
        {**sample_row(sample, Molecule.from_smiles(one), each, settings), "method": "packflow",
         "candidate_id": f"estimate-{k}", "index": k}
        for k, (sample, one, each) in enumerate(zip(samples, smiles, z, strict=True))
    ]  # fmt: skip


def shaped(
    model: Model,
    members: Sequence[Member],
    draws: Sequence[FrozenDraw],
    params: AlignParams,
    score: Callable[[Iterable[tuple[str, Sequence[Row]]]], list[list[Score]]],
) -> list[list[float]]:
    """[draws, members] advantages with energies that count from those of the estimates.

    Args:
        model: the policy that has sampled.
        members: candidates of a step.
        draws: all draws of them.
        params: of the alignment.
        score: scores of groups of crystals, (SMILES, rows) each.
    """
    estimates: dict[tuple[int, int], Row] = {}
    for draw in draws:
        groups = [members[k].group for k in draw.members]
        rows = estimate_rows(model, draw, [g.smiles for g in groups], [g.z for g in groups])
        estimates.update(((draw.number, k), r) for k, r in zip(draw.members, rows, strict=True))
    families: dict[tuple[int, int], list[int]] = {}
    for k, member in enumerate(members):
        families.setdefault(member.family, []).append(k)
    keys = [(number, family) for number in range(params.draws) for family in families.values()]
    scores = score(
        (members[family[0]].group.smiles, [estimates[number, k] for k in family])
        for number, family in keys
    )
    found = [[0.0] * len(members) for _ in range(params.draws)]
    for (number, family), expected in zip(keys, scores, strict=True):
        values = shaped_advantages([members[k].score for k in family], expected, params)
        for k, value in zip(family, values, strict=True):
            found[number][k] = float(value) * members[k].factor
    return found


def shaped_advantages(
    ends: Sequence[Score], estimates: Sequence[Score], params: AlignParams
) -> FloatArray:
    """[K] advantages of a group at one time each: forces as ever, energies from the estimates on.

    Args:
        ends: scores of the candidates.
        estimates: scores of what the policy expected at the time; on one scale with the ends, an
            unsound one by its severity. Where one failed, its candidate teaches nothing there.
        params: how channels are mixed.
    """
    energies, forces = group_rewards([*ends, *estimates], params.penalise)
    k = len(ends)
    return mixed_advantages(
        energies[:k] - energies[k:], forces[:k], params.energy_share, params.advantage_clip,
        ranks=params.ranks,
    )  # fmt: skip
