"""Groups of candidates from the current policy (PackFlow, 4.2.1).

Which molecules a step takes, and the noise of its candidates, follow from the seed and the step
alone, so an interrupted alignment continues exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from packflow_core.align.params import AlignParams
from packflow_core.model.checkpoint import Model
from packflow_core.store.rows import Row
from packflow_core.training.data import TrainingSet


@dataclass(frozen=True)
class Group:
    """What the candidates of a group share.

    Attributes:
        molecule: index in the chemistry.
        smiles: of the molecule.
        z: molecules per cell.
    """

    molecule: int
    smiles: str
    z: int


def draw_groups(chemistry: TrainingSet, params: AlignParams, step: int) -> list[Group]:
    """The groups of a step: different molecules as long as there are enough.

    Args:
        chemistry: the molecules.
        params: groups, Z, largest cell.
        step: number of the step.
    """
    allowed = [
        (m, [z for z in params.z if z * len(graph.numbers) <= params.max_heavy])
        for m, graph in enumerate(chemistry.graphs)
    ]
    allowed = [(m, zs) for m, zs in allowed if zs]
    # Every epoch is a permutation of its own, so that all molecules come equally often.
    size = len(allowed)
    groups = []
    for number in range(step * params.groups, (step + 1) * params.groups):
        epoch, place = divmod(number, size)
        order = np.random.default_rng([params.seed, 1, epoch]).permutation(size)
        m, zs = allowed[order[place]]
        z = zs[int(np.random.default_rng([params.seed, 2, number]).integers(len(zs)))]
        groups.append(Group(m, chemistry.smiles[m], z))
    return groups


def spread_groups(chemistry: TrainingSet, params: AlignParams, count: int) -> list[Group]:
    """Groups of the smallest Z of an evenly spaced subset of the molecules that fit.

    Args:
        chemistry: the molecules.
        params: Z, largest cell.
        count: of groups at most.
    """
    z = min(params.z)
    fits = [m for m, g in enumerate(chemistry.graphs) if z * len(g.numbers) <= params.max_heavy]
    if len(fits) > count:
        fits = [fits[k] for k in np.linspace(0, len(fits) - 1, count).astype(int)]
    return [Group(m, chemistry.smiles[m], z) for m in fits]


def usable(chemistry: TrainingSet, params: AlignParams) -> int:
    """Molecules that fit into a cell of the largest size."""
    smallest = min(params.z)
    return sum(smallest * len(graph.numbers) <= params.max_heavy for graph in chemistry.graphs)


def sample_group(
    model: Model, preset: str, group: Group, params: AlignParams, seed: int
) -> list[Row]:
    """Rows of the stage `generate` of a group, with the schedule that runs use.

    With a shared prefix, neighbouring candidates start alike, and a restart parts them.

    Args:
        model: the policy.
        preset: open or official.
        group: molecule and Z.
        params: group size and shared prefix.
        seed: of the noise.
    """
    from packflow_core.chem.molecule import Molecule
    from packflow_core.model.sampler import Sampler
    from packflow_core.stages.generate import sample_row, schedule_of
    from packflow_core.stages.generate_params import GenerateParams

    settings = GenerateParams()
    schedule = schedule_of(settings, preset)
    if params.shared_prefix > 1:
        schedule = replace(
            schedule, shared=params.shared_prefix, restarts=(params.part_at,),
            restart_steps=max(2, round(params.part_at * schedule.steps)),
        )  # fmt: skip
    molecule = Molecule.from_smiles(group.smiles)
    device = next(model.parameters()).device
    training = model.training
    sampler = Sampler(model, molecule, device)
    samples = sampler.sample(group.z, range(params.group_size), seed, schedule)
    model.train(training)
    return [
        {**sample_row(sample, molecule, group.z, settings), "method": "packflow", "index": k,
         "candidate_id": f"{group.molecule}-z{group.z}-{seed:x}-{k}"}
        for k, sample in enumerate(samples)
    ]  # fmt: skip
