"""Molecules whose crystals are known, from tables and from folders of CIFs.

Forms of one molecule are collected from all sources, by canonical SMILES. What cannot serve as a
target or known form is not dropped in silence: it is listed with the reason.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.metrics import amd_distance
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.errors import UserInputError
from packflow_core.evaluation.settings import EvaluationSettings
from packflow_core.spec import Z_MAX

FloatArray = NDArray[np.float64]

#: Forms this near in AMD, in Å, are one crystal from two sources.
_SAME_FORM_A = 1e-3
#: Tolerance in Å of the translations that make a cell smaller.
_SYMPREC_A = 0.01


@dataclass(frozen=True, eq=False)
class FoundForm:
    """A known crystal as a source has it.

    Attributes:
        smiles: of its molecule, as written there.
        name: of the molecule; empty where the source has none.
        label: of the form, for example a refcode.
        origin: how it is known: experimental, minimised_experimental, ...
        crystal: its atoms, with or without hydrogens.
    """

    smiles: str
    name: str
    label: str
    origin: str
    crystal: Crystal


@dataclass(frozen=True, eq=False)
class KnownForm:
    """A known crystal to compare with.

    Attributes:
        label: unique among the forms of its molecule.
        origin: see `FoundForm`.
        crystal: heavy atoms alone.
        z: molecules in the primitive cell, which is the one that generators make.
    """

    label: str
    origin: str
    crystal: Crystal
    z: int


@dataclass(frozen=True, eq=False)
class Target:
    """A molecule, and the known forms that its proposals are compared with.

    Attributes:
        name: unique, fit for the name of a file; with `each_form` that of molecule and form.
        molecule_name: name of the molecule; proposals are shared by targets that have it and Z.
        smiles: canonical.
        z: molecules per cell to propose.
        forms: at least one.
    """

    name: str
    molecule_name: str
    smiles: str
    z: tuple[int, ...]
    forms: tuple[KnownForm, ...]


@dataclass(frozen=True)
class Refused:
    """A target or a form that cannot be evaluated.

    Attributes:
        name: of the molecule or of the form.
        reason: one sentence.
    """

    name: str
    reason: str


@dataclass(eq=False)
class TargetSet:
    """Targets in a fixed order, and what was refused."""

    targets: list[Target] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def read_targets(settings: EvaluationSettings) -> TargetSet:
    """Targets of all sources of an evaluation.

    Raises:
        UserInputError: a source cannot be read at all, or nothing is left to evaluate.
    """
    from packflow_core.evaluation.sources import read_source

    refused: list[Refused] = []
    molecules: dict[str, Molecule] = {}
    found: dict[str, list[FoundForm]] = {}
    for path in settings.targets:
        forms, problems = read_source(path, settings.split, settings.origins)
        refused += problems
        for form in forms:
            try:
                molecule = Molecule.from_smiles(form.smiles)
            except UserInputError as error:
                refused.append(Refused(form.name or form.label, str(error)))
                continue
            molecules.setdefault(molecule.smiles, molecule)
            found.setdefault(molecule.smiles, []).append(form)
    named = _names(found)
    chosen = sorted(found, key=lambda smiles: named[smiles])
    if settings.molecules and settings.molecules < len(chosen):
        places = np.linspace(0, len(chosen) - 1, settings.molecules).round().astype(int)
        chosen = [chosen[place] for place in places]
    targets: list[Target] = []
    for smiles in chosen:
        forms_ok, problems = _known_forms(found[smiles], molecules[smiles])
        refused += problems
        taken = {target.name for target in targets}
        made = _targets(named[smiles], smiles, forms_ok, settings, taken)
        targets += made
        if forms_ok and not made:
            refused.append(Refused(named[smiles], f"no Z up to {Z_MAX} among its known forms"))
    if not targets:
        why = f" ({refused[0].name}: {refused[0].reason.rstrip('.')})" if refused else ""
        raise UserInputError(
            f"There is no target with a known form in {', '.join(map(str, settings.targets))}"
            f"{why}; check the paths, --split and --origin."
        )
    return TargetSet(targets, refused)


def _targets(
    name: str,
    smiles: str,
    forms: Sequence[KnownForm],
    settings: EvaluationSettings,
    taken: set[str],
) -> list[Target]:
    """Targets of one molecule; their names are none of those `taken`, and go there."""
    groups = [(form,) for form in forms] if settings.each_form else [tuple(forms)]
    made = []
    for group in groups:
        z = settings.z or tuple(sorted({form.z for form in group if form.z <= Z_MAX}))
        if z and group:
            full = f"{name}_{_slug(group[0].label)}"[:64] if settings.each_form else name
            label = full
            number = 2
            while label in taken:
                label = f"{full[:58]}-{number}"
                number += 1
            taken.add(label)
            made.append(Target(label, name, smiles, z, group))
    return made


def _known_forms(
    found: Sequence[FoundForm], molecule: Molecule
) -> tuple[list[KnownForm], list[Refused]]:
    """Forms of one molecule, each crystal once, and what is wrong with the others."""
    forms: list[KnownForm] = []
    refused: list[Refused] = []
    for form in found:
        heavy = form.crystal.heavy_only()
        wanted = np.sort(np.tile(molecule.numbers, heavy.z))
        if not np.array_equal(np.sort(heavy.numbers), wanted):
            refused.append(Refused(form.label, f"its heavy atoms are not those of {form.smiles}"))
            continue
        try:
            if any(amd_distance(heavy, other.crystal) < _SAME_FORM_A for other in forms):
                continue
            z = heavy.z // _centring(heavy)
        except ValueError as error:
            refused.append(Refused(form.label, str(error)))
            continue
        labels = [other.label for other in forms]
        label = form.label
        for number in range(2, len(found) + 2):
            if label not in labels:
                break
            label = f"{form.label} ({number})"
        forms.append(KnownForm(label, form.origin, heavy, z))
    return forms, refused


def _centring(crystal: Crystal) -> int:
    """Lattice points in the cell: 1 for a primitive one, 2 for C2/c in its usual setting."""
    import spglib

    symmetry = spglib.get_symmetry(
        (crystal.cell, crystal.fractional, crystal.numbers), symprec=_SYMPREC_A
    )
    if symmetry is None:
        return 1
    pure = (symmetry["rotations"] == np.eye(3, dtype=np.int64)).all(axis=(1, 2))
    count = max(1, int(pure.sum()))
    return count if crystal.z % count == 0 else 1


def _names(found: dict[str, list[FoundForm]]) -> dict[str, str]:
    """A name for every molecule: that of its first source that has one, made unique."""
    named: dict[str, str] = {}
    taken: set[str] = set()
    for smiles in sorted(found):
        short = hashlib.sha256(smiles.encode()).hexdigest()[:8]
        given = next((_slug(form.name) for form in found[smiles] if _slug(form.name)), "")
        name = given[:48] or f"{Molecule.from_smiles(smiles).formula}-{short}"
        if name in taken:
            name = f"{name}-{short}"
        taken.add(name)
        named[smiles] = name
    return named


def _slug(text: str) -> str:
    """The text with what a file name or a target name must not hold replaced."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._+")
