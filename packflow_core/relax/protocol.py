"""What a relaxation does and when it is done."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from packflow_core.crystal.validity_limits import ValidityLimits

Protocol = Literal["h_only", "converged", "paper"]

#: What a field is where it is not given; None where it has no meaning in that protocol.
_DEFAULTS: dict[str, dict[str, Any]] = {
    # PackFlow, 4.5.2: at most 25 steps, fmax 0.05 eV/Å.
    "h_only": {"max_steps": 25, "exp_cell_factor": None, "max_stress_GPa": None},
    "converged": {"max_steps": 1000, "exp_cell_factor": "sqrt_atoms", "max_stress_GPa": 0.1},
    # PackFlow, 4.5.2: at most 1000 steps, fmax 0.05 eV/Å, ASE's filter as it comes.
    "paper": {"max_steps": 1000, "exp_cell_factor": None, "max_stress_GPa": None},
}


class RelaxParams(ValidityLimits):
    """How to relax a crystal, with ASE's FIRE in its default settings.

    What a relaxation of atoms and cell ends in must lie within the `ValidityLimits`; that of the
    hydrogens alone, which starts from crowded crystals, is not judged.

    Protocols:

    * `h_only`: heavy atoms and cell stay exactly where they are.
    * `converged`: atoms and cell; done when the largest force on an atom is below `fmax` and no
      component of the stress exceeds `max_stress_GPa`.
    * `paper`: atoms and cell as in the PackFlow paper; done when every row of the forces of ASE's
      default FrechetCellFilter is below `fmax`. Its cell rows are the virial over the number of
      atoms, so that about 0.8 GPa pass and the density stays near where it started.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol = Field("converged", description="h_only, converged or paper")
    fmax: float = Field(0.05, gt=0, description="largest force on a free atom at the end, eV/Å")
    max_steps: int = Field(1000, ge=0, description="steps after which the relaxation gives up")
    exp_cell_factor: Annotated[float, Field(gt=0)] | Literal["sqrt_atoms"] | None = Field(
        "sqrt_atoms",
        description="scale of the cell's degrees of freedom in the FrechetCellFilter: a number, "
        "sqrt_atoms for the square root of the number of atoms, or None for that number itself",
    )
    max_stress_GPa: float | None = Field(
        0.1, gt=0, description="largest component of the stress at the end, GPa; None: any"
    )
    clash_factor: float = Field(
        0.75,
        ge=0,
        description="refused at the start: heavy atoms of two molecules closer than this times "
        "the sum of their covalent radii",
    )
    max_volume_ratio: float = Field(
        2.0, gt=1, description="exploded: cell volume above this times that of the start"
    )
    min_volume_ratio: float = Field(
        0.4, gt=0, lt=1, description="exploded: cell volume below this times that of the start"
    )
    min_height_A: float = Field(2.0, gt=0, description="exploded: cell height below this, Å")
    max_bond_ratio: float = Field(
        1.6, gt=1, description="exploded: a bond above this times the sum of covalent radii"
    )
    max_energy_jump_kJ_mol: float = Field(
        1.0,
        gt=0,
        description="largest difference between the relaxed energy and that of a fresh "
        "calculator, kJ/mol per molecule; the relaxation is continued once where it is more",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        protocol = values.get("protocol", "converged")
        defaults = _DEFAULTS.get(protocol, {}) if isinstance(protocol, str) else {}
        for name, default in defaults.items():
            if default is None and name == "max_stress_GPa" and values.get(name) is not None:
                raise ValueError(f"{name} has no meaning in the protocol {protocol}")
        if protocol == "h_only" and values.get("exp_cell_factor") is not None:
            raise ValueError("exp_cell_factor has no meaning in the protocol h_only")
        return {**defaults, **values}

    @property
    def moves_cell(self) -> bool:
        """Whether the cell and the heavy atoms move."""
        return self.protocol != "h_only"

    def cell_factor(self, n_atoms: int) -> float:
        """Scale of the cell's degrees of freedom for a crystal of `n_atoms` atoms.

        With the square root, cell and atoms move equally fast whatever the size: ASE's own scale,
        the number of atoms, leaves the cell behind, and a fixed one suits one size.
        """
        if self.exp_cell_factor == "sqrt_atoms":
            return math.sqrt(n_atoms)
        return float(n_atoms) if self.exp_cell_factor is None else self.exp_cell_factor
