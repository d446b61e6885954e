"""What must be equal for a race to be fair, and what a reader should know where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packflow_core.errors import UserInputError
from packflow_core.race.legs import Leg
from packflow_core.spec import generator_field
from packflow_core.store.schema import stage_kind

#: Fields of a run that may differ between legs, beside the settings of their generators.
_FREE = frozenset({"name", "campaign", "seed", "generator"})
#: Fields of the ranking, which can be made equal without relaxing anything again.
_RANKING = ("rank.", "reference")


def check_comparable(legs: Sequence[Leg]) -> None:
    """Refuse legs whose comparison would not be fair.

    They must be of one molecule, with the same Z, energy engines (name and version), parameters
    of all stages after the generation, and reference.

    Raises:
        UserInputError: the first field that differs, with both values.
    """
    first = legs[0]
    for other in legs[1:]:
        a, b = _shared_fields(first), _shared_fields(other)
        for field in dict.fromkeys([*a, *b]):
            if a.get(field) != b.get(field):
                _refuse(field, first, a.get(field), other, b.get(field))


def remarks(legs: Sequence[Leg]) -> list[str]:
    """What may make the comparison less fair than it looks, one sentence each."""
    out = []
    for leg in legs:
        if leg.n_complete < leg.n_run:
            out.append(
                f"{leg.name}: the run is not finished; of its {leg.n_run} candidates the first "
                f"{leg.n_complete} have come to their end and take part."
            )
    machines = {leg.name: ", ".join(leg.hosts) for leg in legs if leg.hosts}
    if len({host for leg in legs for host in leg.hosts}) > 1:
        out.append(f"The legs ran on different machines ({_by_leg(machines)}); compare no times.")
    devices = {leg.name: ", ".join(leg.devices) for leg in legs if leg.devices}
    if len(set(devices.values())) > 1:
        out.append(f"The legs ran on different devices ({_by_leg(devices)}); compare no times.")
    for what in ("packflow-csp", "rdkit", "spglib", "oxtalign"):
        versions = {leg.name: str(leg.content.get("versions", {}).get(what)) for leg in legs}
        if len(set(versions.values())) > 1:
            out.append(
                f"The legs were made with different versions of {what}: {_by_leg(versions)}."
            )
    if not legs[0].has_reference:
        out.append("The runs have no reference crystal, so there are no hits to count.")
    return out


def _shared_fields(leg: Leg) -> dict[str, Any]:
    own = f"{generator_field(leg.plan.spec)}."
    fields = {
        name: value
        for name, value in leg.plan.identity().items()
        if name not in _FREE and not name.startswith(own)
    }
    for stage, plan in leg.plan.stages.items():
        if stage_kind(stage) in ("relax_h", "relax"):
            fields[f"engine of {stage}"] = plan.identity
    return fields


def _refuse(field: str, a: Leg, value_a: Any, b: Leg, value_b: Any) -> None:
    remedy = "run one of them anew with the other's"
    if field.startswith(_RANKING):
        remedy = f"make them equal with 'csp rank {b.folder} --rerank'"
    raise UserInputError(
        f"The runs cannot be compared: {field} is {_show(value_a)} in {a.folder} and "
        f"{_show(value_b)} in {b.folder}; {remedy}."
    )


def _show(value: Any) -> str:
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _by_leg(values: dict[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in values.items())
