"""The known form, relaxed like a candidate: where it lies in density and energy.

A candidate's lattice energy means little beside that of the experimental crystal in the CIF, which
is no minimum of the engine. So the known form goes through the relaxations of the runs, with their
engines and parameters, in a worker process. Whether it is still the same packing after that says
whether a hit was possible at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.cif import read_cif, write_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.errors import PackflowError
from packflow_core.spec import RunSpec, engine_of, relax_params_of
from packflow_core.stages.plan import ACCEPTS, RunPlan, digest
from packflow_core.store.atomic import atomic_path, storage_errors, write_json
from packflow_core.store.rows import Row, crystal_columns, crystal_of
from packflow_core.store.schema import Status

logger = logging.getLogger(__name__)

IntArray = NDArray[np.int64]

JSON = "known_form.json"
CIF = "known_form.cif"

_TIMEOUT_S = 4 * 3600.0
#: Ways to lay the molecular graph over a molecule of the CIF that are tried at most.
_ORDERS = 24
_BOND_SLACK_A = 0.4


@dataclass(frozen=True)
class KnownForm:
    """The known form after the relaxations of a run.

    Attributes:
        energy_eV: per molecule, by the engine of the last relaxation; None where it failed.
        density: relaxed, g/cm3; None likewise.
        matches: whether it is still the packing of the CIF; None likewise.
        match_rmsd: RMSD of the matched cluster, Å; None where nothing matched.
        problem: why there is no energy; empty otherwise.
    """

    energy_eV: float | None = None
    density: float | None = None
    matches: bool | None = None
    match_rmsd: float | None = None
    problem: str = ""


def known_form(plan: RunPlan, reference: Path, out: Path) -> KnownForm:
    """Relax the known form, or take what an earlier call left in `out`.

    Args:
        plan: of one of the runs; they agree in everything that counts here.
        reference: CIF of the known form.
        out: folder for `known_form.json` and `known_form.cif`; must exist.

    Returns:
        The relaxed form; what keeps it from being relaxed is in `problem`, never raised.

    Raises:
        StorageFullError: no space left in `out`.
    """
    key = _key(plan)
    if (kept := _kept(out / JSON, key)) is not None:
        return kept
    row, problem = _in_worker(plan.spec, reference)
    found = KnownForm(problem=problem)
    if row is not None:
        found = KnownForm(
            energy_eV=float(row["energy_eV"]) / int(row["z"]),
            density=float(row["density_g_cm3"]),
            matches=bool(row["matches_reference"]),
            match_rmsd=row["match_rmsd_A"],
        )
        with storage_errors(out), atomic_path(out / CIF) as temporary:
            write_cif(crystal_of(row), temporary, name=f"{plan.spec.name}_known_form")
        with storage_errors(out):
            write_json(out / JSON, {"key": key, **asdict(found)})
    return found


def relax_known_form(spec: RunSpec, reference: str) -> Row:
    """Row of the known form after all relaxations and the analysis; runs in a worker process.

    Raises:
        ValueError: the CIF cannot be laid over the molecule, or a relaxation did not end well;
            the message says which and why.
        UserInputError: the CIF cannot be read.
    """
    from packflow_core.stages.rank import analyse
    from packflow_core.stages.relax import relax

    row = _start(spec, read_cif(reference))
    for stage in ("relax_h", "relax", *spec.refinements):
        row = relax(row, spec.smiles, engine_of(spec, stage), relax_params_of(spec, stage))
        accepted = ACCEPTS["relax"] if stage == "relax_h" else {Status.OK}
        if row["status"] not in accepted:
            raise ValueError(f"{stage} ended {row['status']} ({row['reason']}: {row['detail']})")
    row["status"], row["reason"] = str(Status.OK), ""
    analysed = analyse(row, spec.smiles, spec.rank, reference)
    if analysed["status"] != Status.OK:
        raise ValueError(f"it is no longer the molecule asked for ({analysed['detail']})")
    return analysed


def _start(spec: RunSpec, crystal: Crystal) -> Row:
    """Row of the crystal with all hydrogens, atoms in the order of the molecule."""
    molecule = Molecule.from_smiles(spec.smiles)
    row: Row = {
        "candidate_id": "known form", "index": 0, "campaign": spec.campaign, "target": spec.name,
        "method": "known form", "seed": spec.seed, "status": str(Status.OK), "reason": "",
        "detail": "",
    }  # fmt: skip
    if len(crystal) == crystal.z * molecule.n_atoms:
        for order in _orders(crystal, molecule.numbers_h, molecule.bonds_h):
            return {**row, **crystal_columns(_reordered(crystal, order))}
        raise ValueError("its bonds are not those of the molecule")
    return _with_hydrogens(row, crystal.heavy_only(), molecule, spec)


def _with_hydrogens(row: Row, heavy: Crystal, molecule: Molecule, spec: RunSpec) -> Row:
    """The crystal of heavy atoms with hydrogens added, nothing else changed."""
    from packflow_core.stages.hydrogenate import hydrogenate

    params = spec.hydrogenate.model_copy(
        update={"repair": False, "relieve": False, "push_apart": False}
    )
    done: Row = {"detail": "its bonds are not those of the molecule"}
    for order in _orders(heavy, molecule.numbers, molecule.bonds):
        ordered = _reordered(heavy, order)
        # A crystal and its mirror image are one form; the molecule may be asked for in one hand.
        for positions in (ordered.positions, -ordered.positions):
            columns = crystal_columns(ordered.with_positions(positions))
            done = hydrogenate({**row, **columns}, molecule, params)
            if done["status"] == Status.OK:
                return done
    raise ValueError(f"it cannot be given hydrogens ({done['detail']})")


def _orders(crystal: Crystal, numbers: IntArray, bonds: IntArray) -> Iterator[IntArray]:
    """Atom orders in which the first molecule of a crystal has the bonds of a graph."""
    from rdkit import Chem

    size = len(crystal) // crystal.z
    own = crystal.numbers[:size]
    if sorted(own.tolist()) != sorted(numbers.tolist()):
        return
    x = crystal.positions[:size]
    near = np.linalg.norm(x[:, None] - x[None], axis=-1)
    reach = COVALENT_RADII[own][:, None] + COVALENT_RADII[own][None] + _BOND_SLACK_A
    # Two hydrogens are never bonded here, however close a bad CIF has them.
    bonded = np.triu((near < reach) & ~((own == 1)[:, None] & (own == 1)[None]), 1)

    def graph(elements: IntArray, pairs: Any) -> Chem.Mol:
        mol = Chem.RWMol()
        for element in elements.tolist():
            atom = Chem.Atom(int(element))
            atom.SetNoImplicit(True)
            mol.AddAtom(atom)
        for i, j in pairs:
            mol.AddBond(int(i), int(j), Chem.BondType.SINGLE)
        return mol.GetMol()

    pairs = np.argwhere(bonded)
    if len(pairs) != len(bonds):
        return
    target = graph(own, pairs)
    for match in target.GetSubstructMatches(
        graph(numbers, bonds), uniquify=False, maxMatches=_ORDERS
    ):
        yield np.asarray(match, dtype=np.int64)


def _reordered(crystal: Crystal, order: IntArray) -> Crystal:
    """The crystal with the atoms of every molecule in another order."""
    size = len(order)
    places = (np.arange(crystal.z)[:, None] * size + order[None]).reshape(-1)
    return Crystal(crystal.numbers[places], crystal.positions[places], crystal.cell, crystal.z)


def _in_worker(spec: RunSpec, reference: Path) -> tuple[Row | None, str]:
    """The row, or why there is none."""
    from packflow_core.devices import make_seats
    from packflow_core.engines.registry import engine_traits
    from packflow_core.engines.trust import check_trusted
    from packflow_core.stages import pools

    try:
        for engine in spec.engines:
            check_trusted(engine)
        gpu = any(engine_traits(engine).gpu for engine in spec.engines)
        seats = make_seats(1, "auto" if gpu else "cpu", gpu=gpu)
        items = [(0, (spec, str(reference)))]
        for outcome in pools.pool(seats).map(relax_known_form, items, _TIMEOUT_S):
            if outcome.error is None:
                return outcome.value, ""
            logger.warning("the known form was not relaxed: %s", outcome.detail)
            return None, _last_line(outcome.detail or outcome.error)
    except PackflowError as error:  # an engine that is not trusted or not installed here
        return None, str(error)
    return None, "the worker gave no result"


def _last_line(text: str) -> str:
    """Of a traceback what the exception said."""
    line = text.strip().splitlines()[-1]
    return line.partition(": ")[2] or line


def _key(plan: RunPlan) -> str:
    """What the relaxed known form depends on."""
    spec = plan.spec
    return digest(
        {
            "smiles": spec.smiles,
            "reference": plan.reference_sha256,
            "rank": spec.rank.model_dump(mode="json"),
            "stages": {
                stage: [plan.stages[stage].identity, relax_params_of(spec, stage).model_dump_json()]
                for stage in ("relax_h", "relax", *spec.refinements)
            },
        }
    )


def _kept(path: Path, key: str) -> KnownForm | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("key") == key:
            return KnownForm(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None
