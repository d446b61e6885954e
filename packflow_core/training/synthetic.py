"""Synthetic training crystals: molecules old and new, packed at random and pressed.

Known molecules with few crystals get new packings, and new molecules are made of their pieces
(`synthetic_molecules`); for each some crystals are attempted (`synthetic_crystals`). The result is
a training set like any other, `train.npz`, with an account of every attempt in `train.json`.

The work is cut into blocks of molecules. A block is written whole or not at all, so an
interrupted call continues with the next one, and nothing depends on the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
import torch
from pydantic import BaseModel, ConfigDict, Field

from packflow_core import __version__
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.training.data import TrainingSet
from packflow_core.training.synthetic_crystals import (
    CrystalParams,
    MoleculeCrystals,
    molecule_crystals,
)
from packflow_core.training.synthetic_molecules import (
    brics_pieces,
    recombine,
    skeleton_key,
    skeleton_keys,
)

log = logging.getLogger(__name__)

SET_FILE, ACCOUNT_FILE, PLAN_FILE, BLOCKS = "train.npz", "train.json", "plan.json", "blocks"

#: Molecules in a block.
_BLOCK = 8


class SyntheticParams(BaseModel):
    """Settings of a synthetic training set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    molecules: int = Field(1000, ge=1, description="molecules in all")
    crystals_per_molecule: int = Field(24, ge=1, description="crystals attempted for each")
    training_share: float = Field(
        0.5, ge=0, le=1, description="share of training molecules, as far as there are enough"
    )
    min_heavy: int = Field(4, ge=1, description="heavy atoms in a molecule at least")
    max_heavy: int = Field(24, ge=1, description="heavy atoms in a molecule at most")
    seed: int = Field(0, ge=0, description="seed of molecules and crystals")
    crystals: CrystalParams = Field(CrystalParams(), description="how crystals are made")


@dataclass(frozen=True)
class Progress:
    """Where a synthesis stands.

    Attributes:
        blocks, of: blocks written, and blocks in all.
        molecules: molecules with a crystal.
        attempted, made: crystals.
        failed: attempts without a crystal, by reason.
    """

    blocks: int
    of: int
    molecules: int
    attempted: int
    made: int
    failed: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether every block is there."""
        return self.blocks == self.of


def synthesise(
    training: Sequence[str],
    out: Path,
    params: SyntheticParams,
    *,
    avoid: Collection[str] = (),
    workers: int = 1,
    time_limit: float = math.inf,
    on_block: Callable[[int, int], None] = lambda done, of: None,
) -> Progress:
    """Make a synthetic training set in a folder, or continue one.

    Args:
        training: SMILES of the training molecules.
        out: folder; `train.npz` and `train.json` hold what there is when the call ends.
        params: settings.
        avoid: SMILES of validation and test molecules. Nothing with the heavy-atom skeleton of
            one of them is made, not even where it is a training molecule.
        workers: processes; no number depends on it.
        time_limit: seconds after which no further block is begun.
        on_block: called with the blocks written so far and those in all.

    Raises:
        UserInputError: the folder cannot be written, holds another set, the settings contradict
            each other, or nothing could be made.
    """
    if params.min_heavy > params.max_heavy:
        raise UserInputError(
            f"min_heavy={params.min_heavy} is above max_heavy={params.max_heavy}; lower it."
        )
    plan = _open_plan(training, out, params, avoid)
    smiles: list[str] = plan["smiles"]
    blocks = [smiles[k : k + _BLOCK] for k in range(0, len(smiles), _BLOCK)]
    missing = [k for k in range(len(blocks)) if not _block_path(out, k).exists()]
    done = len(blocks) - len(missing)
    on_block(done, len(blocks))
    jobs = ((_block_path(out, k), blocks[k], params) for k in missing)
    for _ in _run(jobs, workers, time.monotonic() + time_limit):
        done += 1
        on_block(done, len(blocks))
    return _gather(out, plan, len(blocks))


# -- the plan --------------------------------------------------------------------------------
def _open_plan(
    training: Sequence[str], out: Path, params: SyntheticParams, avoid: Collection[str]
) -> dict[str, Any]:
    """The plan of the folder; made where there is none."""
    inputs = {
        "settings": params.model_dump(mode="json"),
        "training": _digest(training),
        "avoided": _digest(sorted(avoid)),
    }
    path = out / PLAN_FILE
    if path.exists():
        try:
            plan: dict[str, Any] = json.loads(path.read_text())
            same = all(plan[key] == value for key, value in inputs.items())
        except (ValueError, KeyError, TypeError) as error:
            raise UserInputError(f"{path} is broken; choose another --out.") from error
        if not same:
            raise UserInputError(
                f"{out} holds synthetic crystals of other settings or molecules; choose another "
                "--out."
            )
        if plan["versions"] != _versions():
            log.warning("%s was begun with other versions: %s", out, plan["versions"])
        return plan
    smiles, account = planned_molecules(training, params, avoid)
    plan = {**inputs, "versions": _versions(), "molecules": account, "smiles": smiles}
    try:
        (out / BLOCKS).mkdir(parents=True, exist_ok=True)
        _write_json(path, plan)
    except OSError as error:
        raise UserInputError(
            f"{out} cannot be written ({error.strerror}); choose another --out."
        ) from error
    return plan


def planned_molecules(
    training: Sequence[str], params: SyntheticParams, avoid: Collection[str] = ()
) -> tuple[list[str], dict[str, Any]]:
    """Molecules of a synthetic set, training and new ones evenly mixed, and an account of them.

    Args:
        training: SMILES of the training molecules.
        params: settings.
        avoid: SMILES whose heavy-atom skeletons are forbidden.

    Raises:
        UserInputError: nothing is left.
    """
    forbidden = skeleton_keys(avoid)
    left_out: Counter[str] = Counter()
    kept: list[str] = []
    sources: list[str] = []
    for text in dict.fromkeys(training):
        molecule = Molecule.from_smiles(text)
        if skeleton_key(molecule) in forbidden:
            left_out["forbidden"] += 1
            continue
        sources.append(molecule.smiles)
        if params.min_heavy <= molecule.n_heavy <= params.max_heavy:
            kept.append(molecule.smiles)
        else:
            left_out["size"] += 1
    rng = np.random.default_rng(params.seed)
    wanted = min(len(kept), round(params.training_share * params.molecules))
    old = [kept[k] for k in rng.permutation(len(kept))[:wanted]]
    account: dict[str, Any] = {
        "training": len(old),
        "training_left_out": dict(left_out),
        "new": 0,
        "new_refused": {},
    }
    fresh: list[str] = []
    if len(old) < params.molecules and params.training_share < 1:
        found = recombine(
            brics_pieces(sources), params.molecules - len(old), params.seed,
            known=set(sources), forbidden=forbidden,
            min_heavy=params.min_heavy, max_heavy=params.max_heavy,
        )  # fmt: skip
        fresh = found.smiles
        account |= {"new": len(fresh), "new_refused": dict(found.refused)}
    if not old and not fresh:
        raise UserInputError(
            f"No training molecule has {params.min_heavy} to {params.max_heavy} heavy atoms, and "
            "no new one could be made; give other data or another range."
        )
    # Evenly mixed, so that a part of the work is a sample of the whole.
    places = [(k + 0.5) / len(part) for part in (old, fresh) for k in range(len(part))]
    both = [*old, *fresh]
    return [both[k] for k in np.argsort(places, kind="stable")], account


def _versions() -> dict[str, str]:
    return {
        "packflow_csp": __version__,
        "rdkit": str(rdkit.__version__),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# -- the blocks ------------------------------------------------------------------------------
_Job = tuple[Path, list[str], SyntheticParams]


def _run(jobs: Iterator[_Job], workers: int, deadline: float) -> Iterator[None]:
    """Make blocks until there are no more, or the deadline is over; yields after each."""
    if workers <= 1:
        for job in jobs:
            if time.monotonic() >= deadline:
                return
            _make_block(job)
            yield
        return
    if time.monotonic() >= deadline:
        return
    # Spawned, for forked processes inherit the threads of torch in an unknown state.
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        running = {pool.submit(_make_block, job) for job in islice(jobs, workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                if time.monotonic() < deadline:
                    running |= {pool.submit(_make_block, job) for job in islice(jobs, 1)}
                yield


def _one_thread() -> None:
    torch.set_num_threads(1)


def _make_block(job: _Job) -> None:
    path, smiles, params = job
    made = [
        molecule_crystals(one, params.crystals_per_molecule, params.seed, params.crystals)
        for one in smiles
    ]
    accounts = [
        {
            "smiles": one.smiles, "attempted": one.attempted, "made": len(one),
            "failed": dict(one.failed),
            "contact": one.contact if len(one) else None,
        }
        for one in made
    ]  # fmt: skip
    temporary = path.with_suffix(".tmp.npz")
    # The account travels in the file of the crystals, so that both are there or neither.
    np.savez_compressed(temporary, **_arrays(made), account=np.array(json.dumps(accounts)))
    temporary.replace(path)


def _block_path(out: Path, number: int) -> Path:
    return out / BLOCKS / f"block-{number:05d}.npz"


def _arrays(made: list[MoleculeCrystals]) -> dict[str, Any]:
    """Crystals of some molecules as arrays; `molecule` counts molecules with crystals."""
    made = [one for one in made if len(one)]
    x = [x.reshape(-1, 3) for one in made for x in one.positions]
    return {
        "smiles": np.array([one.smiles for one in made], dtype=np.str_),
        "molecule": np.repeat(np.arange(len(made)), [len(one) for one in made]).astype(np.int64),
        "z": np.array([z for one in made for z in one.z], dtype=np.int64),
        "cells": np.array([c for one in made for c in one.cells], np.float32).reshape(-1, 3, 3),
        "sizes": np.array([len(one) for one in x], dtype=np.int64),
        "positions": np.concatenate([*x, np.zeros((0, 3))]).astype(np.float32),
    }


# -- the result ------------------------------------------------------------------------------
def _gather(out: Path, plan: dict[str, Any], of: int) -> Progress:
    """Write training set and account of the blocks there are."""
    parts: list[dict[str, Any]] = []
    accounts: list[dict[str, Any]] = []
    for number in range(of):
        path = _block_path(out, number)
        if not path.exists():
            continue
        with np.load(path, allow_pickle=False) as block:
            part = {name: block[name] for name in block.files}
        accounts += json.loads(str(part.pop("account")))
        parts.append(part)
    failed: Counter[str] = Counter()
    for one in accounts:
        failed.update(one["failed"])
    smiles = [str(name) for part in parts for name in part["smiles"]]
    progress = Progress(
        blocks=len(parts),
        of=of,
        molecules=len(smiles),
        attempted=sum(one["attempted"] for one in accounts),
        made=sum(one["made"] for one in accounts),
        failed=dict(sorted(failed.items())),
    )
    if not parts:
        return progress
    if not smiles:
        raise UserInputError(
            f"None of {progress.attempted} synthetic crystals succeeded "
            f"({_counts(progress.failed)}); {out / PLAN_FILE} has the molecules and settings."
        )
    first = np.cumsum([0] + [len(part["smiles"]) for part in parts[:-1]])
    sizes = np.concatenate([part["sizes"] for part in parts])
    # What belongs to the molecules is made anew when the file is read.
    data = TrainingSet(
        smiles=smiles,
        graphs=[],
        factors=[],
        molecule_volumes=np.zeros(0),
        molecule=np.concatenate(
            [part["molecule"] + k for part, k in zip(parts, first, strict=True)]
        ),
        z=np.concatenate([part["z"] for part in parts]),
        cells=np.concatenate([part["cells"] for part in parts]),
        erel=np.full(len(sizes), np.nan, dtype=np.float32),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        positions=np.concatenate([part["positions"] for part in parts]),
    )
    temporary = out / "train.tmp.npz"
    data.save(temporary)
    temporary.replace(out / SET_FILE)
    _write_json(
        out / ACCOUNT_FILE,
        {
            "complete": progress.complete,
            "blocks": {"made": progress.blocks, "planned": of},
            "molecules": {
                **plan["molecules"],
                "planned": len(plan["smiles"]),
                "attempted": len(accounts),
                "with_crystals": len(smiles),
            },
            "crystals": {
                "attempted": progress.attempted,
                "made": progress.made,
                "failed": progress.failed,
            },
            **{key: plan[key] for key in ("settings", "training", "avoided", "versions")},
            "of_each_molecule": accounts,
        },
    )
    return progress


def _counts(failed: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in failed.items())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
