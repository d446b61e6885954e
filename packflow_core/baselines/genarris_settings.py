"""What Genarris is asked to do: its parameters, and the files of a fresh run.

The defaults are those of the PackFlow paper (appendix D, listing 1), written with the names that
Genarris 3.1 obeys: the listing's `unit_cell_volume_mean` and `volume_mult` are ignored there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, field_validator

from packflow_core.baselines.genarris_molecule import bond_cutoff, check_conformer
from packflow_core.chem.elements import symbol
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.errors import UserInputError

logger = logging.getLogger(__name__)

#: Elements for which Genarris has radii and a symmetry detector; it stops, with exit code 0 and
#: without a word in its log, at any other.
GENARRIS_ELEMENTS = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53})

GENERATION = "generation"
PRESS = "symm_rigid_press"

CONFIG_FILE = "ui.conf"
MOLECULE_FILE = "mol.xyz"
#: Our own record of what was asked; Genarris does not look at it.
REQUEST_FILE = "packflow_request.json"

Distribution = Literal["standard", "uniform", "chiral", "racemic", "csd"]


class GenarrisSettings(BaseModel):
    """Settings of Genarris; names without a prefix are its own.

    Source: PackFlow, appendix D, listing 1, but for `natural_cutoff_mult` (the listing's 1.0
    loses bonds of RDKit's geometries) and `maxiter` by its name here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    structures_per_group: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="structures asked for in each space group; empty: max(10, K) for K "
        "candidates, as in the paper",
    )
    n_conformers: int = Field(
        1, ge=1, le=1000, description="lowest conformers used, one run of Genarris for each"
    )
    space_groups: Literal["auto"] | Distribution | tuple[int, ...] = Field(
        "auto",
        description="Genarris' distribution (standard, uniform, chiral, racemic, csd) or a list of "
        "space group numbers; auto: chiral where the SMILES fixes the hand of the molecule, "
        "else standard, the paper's",
    )
    mpi_ranks: int = Field(
        2, ge=1, le=4096, description="processes that mpirun starts; the structures depend on it"
    )
    timeout_s: float = Field(
        3600.0, gt=0, description="time limit of one run; what it made by then is salvaged, s"
    )
    ucv_mean: float | None = Field(
        None, gt=0, description="mean volume of the cell, Å3; predicted by Genarris where empty"
    )
    ucv_mult: float = Field(
        1.0,
        gt=0,
        le=20,
        description="factor on the predicted volume; the paper's listing says 1.0 under a name "
        "that Genarris 3.1 ignores in favour of its own default, 1.5",
    )
    sr: float = Field(0.85, gt=0, le=2, description="closest contact over the sum of vdW radii")
    tol: float = Field(0.1, gt=0, description="tolerance of molecules on special positions, Å")
    max_attempts_per_spg: int = Field(100_000, ge=1, description="attempts for a space group")
    max_attempts_per_volume: int = Field(
        1000, ge=1, description="attempts before another volume is drawn; 0 would crash Genarris"
    )
    natural_cutoff_mult: float = Field(
        1.1,
        ge=1,
        le=1.5,
        description="two atoms are bonded below the sum of covalent radii times this; the "
        "nearest value that finds the molecule's bonds is taken",
    )
    press_sr: float = Field(0.85, gt=0, le=2, description="the same as sr, for the press")
    press_method: Literal["BFGS", "L-BFGS-B"] = Field("BFGS", description="optimiser of the press")
    press_tol: float = Field(0.01, gt=0, description="convergence of the press")
    press_maxiter: int = Field(100, ge=1, description="steps of the press")

    @field_validator("space_groups")
    @classmethod
    def _groups(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if isinstance(value, tuple) and (not value or any(not 1 <= g <= 230 for g in value)):
            raise ValueError("space_groups takes numbers from 1 to 230, or a distribution")
        return tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value


class GenarrisParams(GenarrisSettings):
    """Everything that runs of Genarris take, one run for each Z."""

    method: Literal["plain", "rigid_press"] = Field(
        "plain", description="random placement alone, or the rigid press after it"
    )
    z_values: tuple[int, ...] = Field(
        (4,), min_length=1, description="molecules per cell, one run of Genarris for each"
    )
    structures_per_group: int = Field(
        10, ge=1, le=1_000_000, description="structures asked for in each space group"
    )
    seed: int = Field(0, ge=0, description="seed; the structures depend on mpi_ranks, too")

    @field_validator("z_values")
    @classmethod
    def _z(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(z < 1 for z in value) or len(set(value)) < len(value):
            raise ValueError("z_values takes different positive numbers")
        return value

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of Genarris' workflow, in order."""
        return (GENERATION,) if self.method == "plain" else (GENERATION, PRESS)

    def for_budget(self, k: int) -> Self:
        """The same settings with a pool from which `k` can be shortlisted: max(10, k) a group.

        Source: PackFlow, appendix D.
        """
        return self.model_copy(update={"structures_per_group": max(10, k)})


@dataclass(frozen=True)
class GenarrisRequest:
    """What a folder was made for.

    Attributes:
        smiles: canonical SMILES of the molecule, whose atom order `mol.xyz` has.
        method: "plain" or "rigid_press".
        z: molecules per cell.
        conformer: number of the conformer.
        seed: seed given to Genarris.
        mpi_ranks: processes that must take part.
    """

    smiles: str
    method: str
    z: int
    conformer: int
    seed: int
    mpi_ranks: int


def genarris_seed(seed: int, z: int, conformer: int = 0) -> int:
    """Seed from 1 to 2^31 - 1 for one run of Genarris, to which 0 would mean the clock."""
    digest = hashlib.sha256(f"genarris {seed} {z} {conformer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (2**31 - 1) + 1


def write_inputs(
    folder: str | Path,
    molecule: Molecule,
    conformer: ArrayLike,
    params: GenarrisParams,
    *,
    z: int | None = None,
    conformer_number: int = 0,
) -> GenarrisRequest:
    """Write the input of one run into a fresh folder.

    Args:
        folder: made if need be; must hold nothing, for Genarris silently takes up what an
            earlier run left in its directory.
        molecule: the molecule.
        conformer: [n_atoms, 3] Å in the order of `molecule`, hydrogens included.
        params: settings.
        z: molecules per cell; may be left out where `params` has a single value.
        conformer_number: enters the seed and the record, so that a row knows its conformer.

    Raises:
        UserInputError: an element that Genarris does not know, a folder that is in use or cannot
            be written, or a conformer that is not one of the molecule.
        ValueError: `z` is missing or not among `params.z_values`.
    """
    if z is None and len(params.z_values) == 1:
        z = params.z_values[0]
    if z not in params.z_values or z is None:
        raise ValueError(f"z must be one of {params.z_values}, not {z}")
    unknown = sorted({symbol(int(n)) for n in molecule.numbers_h if n not in GENARRIS_ELEMENTS})
    if unknown:
        known = ", ".join(symbol(n) for n in sorted(GENARRIS_ELEMENTS))
        raise UserInputError(
            f"Genarris does not know {', '.join(unknown)} of '{molecule.smiles}', only {known}; "
            "use another generator."
        )
    positions = check_conformer(molecule, np.asarray(conformer, dtype=np.float64))
    request = GenarrisRequest(
        smiles=molecule.smiles,
        method=params.method,
        z=z,
        conformer=conformer_number,
        seed=genarris_seed(params.seed, z, conformer_number),
        mpi_ranks=params.mpi_ranks,
    )
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UserInputError(
                f"The folder '{path}' is not empty, and Genarris takes up what it finds; give a "
                "new one."
            )
        cutoff = bond_cutoff(molecule, positions, params.natural_cutoff_mult)
        (path / MOLECULE_FILE).write_text(_xyz(molecule, positions), encoding="ascii")
        config = _config(params, request, _groups_for(params, molecule), cutoff)
        (path / CONFIG_FILE).write_text(config, encoding="ascii")
        (path / REQUEST_FILE).write_text(
            json.dumps({**request.__dict__, "params": params.model_dump(mode="json")}, indent=1)
        )
    except OSError as error:
        raise UserInputError(
            f"The input of Genarris cannot be written to '{path}' ({error.strerror or error}); "
            "give a folder that is writable."
        ) from error
    return request


def read_request(folder: str | Path) -> GenarrisRequest | None:
    """The record that `write_inputs` left in a folder, or None in a folder made otherwise."""
    try:
        data = json.loads((Path(folder) / REQUEST_FILE).read_text())
        return GenarrisRequest(**{name: data[name] for name in GenarrisRequest.__annotations__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _groups_for(params: GenarrisParams, molecule: Molecule) -> str:
    """Value of `spg_distribution_type`."""
    if params.space_groups == "auto":
        return "standard" if stereo_of(molecule).mirror_allowed else "chiral"
    if isinstance(params.space_groups, tuple):
        return str(list(params.space_groups))
    return params.space_groups


def _config(params: GenarrisParams, request: GenarrisRequest, groups: str, cutoff: float) -> str:
    """Text of `ui.conf`; values are Python literals, a key may appear once."""
    sections: dict[str, dict[str, Any]] = {
        "master": {
            "name": "packflow",
            "molecule_path": [MOLECULE_FILE],
            "Z": request.z,
            "log_level": "info",
        },
        "workflow": {"tasks": list(params.tasks)},
        GENERATION: {
            "num_structures_per_spg": params.structures_per_group,
            "sr": params.sr,
            "max_attempts_per_spg": params.max_attempts_per_spg,
            "tol": params.tol,
            "ucv_mean": "predict" if params.ucv_mean is None else params.ucv_mean,
            "ucv_mult": params.ucv_mult,
            "max_attempts_per_volume": params.max_attempts_per_volume,
            "spg_distribution_type": groups,
            "generation_type": "crystal",
            "natural_cutoff_mult": cutoff,
            "seed": request.seed,
        },
    }
    if PRESS in params.tasks:
        sections[PRESS] = {
            "sr": params.press_sr,
            "method": params.press_method,
            "tol": params.press_tol,
            "natural_cutoff_mult": cutoff,
            "debug_flag": False,
            "maxiter": params.press_maxiter,
        }
    lines = []
    for name, options in sections.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in options.items()), ""]
    return "\n".join(lines)


def _xyz(molecule: Molecule, positions: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    lines = [str(len(positions)), ""]
    for number, (x, y, z) in zip(molecule.numbers_h.tolist(), positions, strict=True):
        lines.append(f"{symbol(number):<2} {x:15.8f} {y:15.8f} {z:15.8f}")
    return "\n".join(lines) + "\n"
