"""A UMA checkpoint of a few thousand random weights, in the format of fairchem-core 2.24.

It has the parts that the real loading path looks for: an eSCN-MD backbone with mixed experts, one
head for energy, forces and stress by differentiation, and a task of each kind for the data set
`omc`. Its energies mean nothing, but they are smooth functions of the geometry.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

#: Energy in eV that the checkpoint adds for each atom of an element.
REFERENCES = {1: -0.7, 6: -6.1, 7: -6.8, 8: -4.2}
#: eV that one unit of the network's output stands for.
SCALE = 1.7
#: Factor on the weights that mix the experts, so that the composition matters.
ROUTING = 6.0
DATASETS = ("omat", "omc", "omol")


def _model(channels: int, experts: int, datasets: tuple[str, ...]) -> dict[str, Any]:
    uma = "fairchem.core.models.uma"
    size = {
        "sphere_channels": channels, "hidden_channels": channels, "edge_channels": channels,
        "num_layers": 1, "lmax": 1, "mmax": 1, "num_distance_basis": 8, "max_num_elements": 60,
    }  # fmt: skip
    graph = {
        "otf_graph": True, "cutoff": 4.5, "max_neighbors": 300, "use_pbc": True,
        "use_pbc_single": True, "distance_function": "gaussian",
    }  # fmt: skip
    derivatives = {"regress_forces": True, "regress_stress": True, "direct_forces": False}
    mixture = {
        "num_experts": experts, "moe_layer_type": "pytorch", "moe_dropout": 0.0,
        "use_composition_embedding": True, "use_global_embedding": False, "model_version": 1.1,
    }  # fmt: skip
    kinds = {
        "norm_type": "rms_norm_sh", "act_type": "gate", "ff_type": "spectral",
        "chg_spin_emb_type": "rand_emb", "cs_emb_grad": True, "dataset_list": list(datasets),
    }  # fmt: skip
    head = {
        "module": f"{uma}.escn_moe.DatasetSpecificSingleHeadWrapper",
        "head_cls": f"{uma}.escn_md.MLP_EFS_Head",
        "head_kwargs": {"wrap_property": False},
        "dataset_names": list(datasets),
    }
    backbone = {"model": f"{uma}.escn_moe.eSCNMDMoeBackbone"}
    return {
        "_target_": "fairchem.core.models.base.HydraModel",
        "backbone": {**backbone, **size, **graph, **derivatives, **mixture, **kinds},
        "heads": {"efs": head},
        "pass_through_head_outputs": True,
    }


def _task(dataset: str, quantity: str) -> dict[str, Any]:
    modules = "fairchem.core.modules"
    shape = {"energy": [1], "forces": [3], "stress": [1, 9]}[quantity]
    task: dict[str, Any] = {
        "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
        "name": f"{dataset}_{quantity}",
        "property": quantity,
        "level": "atom" if quantity == "forces" else "system",
        "datasets": [dataset],
        "metrics": ["mae"],
        "out_spec": {"dim": shape, "dtype": "float32"},
        "loss_fn": {
            "_target_": f"{modules}.loss.DDPMTLoss",
            "coefficient": 1,
            "loss_fn": {"_target_": f"{modules}.loss.PerAtomMAELoss"},
        },
        "normalizer": {
            "_target_": f"{modules}.normalization.normalizer.Normalizer",
            "mean": 0.0,
            "rmsd": SCALE,
        },
    }
    if quantity == "energy":
        task["element_references"] = {
            "_target_": f"{modules}.normalization.element_references.ElementReferences",
            "element_references": {
                "_target_": "torch.DoubleTensor",
                "_args_": [[REFERENCES.get(number, 0.0) for number in range(100)]],
            },
        }
    return task


def build(
    path: Path,
    *,
    seed: int = 0,
    model_id: str | None = None,
    gain: float = 1.5,
    channels: int = 8,
    experts: int = 3,
    datasets: tuple[str, ...] = DATASETS,
    nan: bool = False,
) -> Path:
    """Write a checkpoint; the same arguments give the same weights.

    Args:
        path: file.
        seed: of the weights.
        model_id: generation that it claims to be, for example "UMA-S-1.2"; 1.1 has none.
        gain: factor on the weights of the head, for forces of an eV/Å or so.
        channels: width.
        experts: experts that are mixed by composition.
        datasets: data sets that it has a task for.
        nan: a weight that makes every answer NaN.
    """
    os.environ.setdefault("FAIRCHEM_CACHE_DIR", str(path.parent / "fairchem-cache"))
    # Loaded first: the modules below import each other in a circle.
    import fairchem.core.units.mlip_unit  # noqa: F401
    import hydra
    import torch
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    config = _model(channels, experts, datasets) | ({"model_id": model_id} if model_id else {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hydra.utils.instantiate(copy.deepcopy(config))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "output_heads" in name and weights.dim() > 1:
                weights.mul_(gain)
                if nan:
                    weights.fill_(float("nan"))
            if "routing_mlp" in name and weights.dim() > 1:
                weights.mul_(ROUTING)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    tasks = [_task(name, kind) for name in datasets for kind in ("energy", "forces", "stress")]
    checkpoint = MLIPInferenceCheckpoint(
        model_config=config,
        model_state_dict=model.state_dict(),
        ema_state_dict=averaged.state_dict(),
        tasks_config=tasks,
    )
    torch.save(checkpoint, path)
    return path
