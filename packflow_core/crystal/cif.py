"""CIF in and out: a reference crystal from a file, a candidate to a file.

Reading expands the symmetry, makes the molecules whole and counts them. Writing is P1 with
twelve decimals, so that a written crystal comes back where it was.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.elements import symbol
from packflow_core.chem.molecule import check_supported
from packflow_core.crystal.cif_lines import cell_lines, cif_head, hill_formula
from packflow_core.crystal.contacts import neighbour_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights, is_valid_parameters, parameters_to_cell
from packflow_core.crystal.unwrap import Connectivity, connect_molecules, wrap
from packflow_core.errors import UserInputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Images of one site closer than this (Å) are one atom on a special position.
_SAME_SITE = 0.1
#: Different atoms closer than this (Å) are disorder or a damaged file.
_TOO_CLOSE = 0.5
_MIN_HEIGHT = 1.0
_SYMOP_TAGS = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
)
_SPACE_GROUP_TAGS = (
    "_space_group_name_H-M_alt",
    "_symmetry_space_group_name_H-M",
    "_space_group_name_Hall",
    "_symmetry_space_group_name_Hall",
    "_space_group_IT_number",
    "_symmetry_Int_Tables_number",
)


@dataclass(frozen=True, eq=False)
class CifStructure:
    """The cell content of a CIF with its symmetry expanded, atoms as the file has them.

    Attributes:
        numbers: [N] atomic numbers.
        frac: [N, 3] fractional coordinates as given (site by site, image by image).
        cell: [3, 3] Å, in the frame of `parameters_to_cell`.
        formula_units: the file's own Z (`_cell_formula_units_Z`), or None.
        n_operations: symmetry operations applied, 1 in P1.
    """

    numbers: IntArray
    frac: FloatArray
    cell: FloatArray
    formula_units: int | None
    n_operations: int


def read_cif(path: str | Path, keep_order: bool = False) -> Crystal:
    """Read a crystal of one kind of molecule.

    Molecules are found by distances, made whole and placed canonically (`unwrap`); they come in
    the order of their first atoms. Inside a molecule heavy atoms come before hydrogens, otherwise
    in the order of the first molecule, which the others follow through a match of the molecular
    graphs. Hydrogens may be missing altogether. Of two disordered parts the larger is taken.

    Args:
        path: a CIF with one structure.
        keep_order: take a P1 file as it stands, molecules whole and one after the other as
            `write_cif` leaves them: no atom changes its place in the list or in space.

    Raises:
        UserInputError: the file is missing, unreadable, disordered beyond repair, has elements
            outside the supported set, or holds something else than equal molecules.
    """
    structure = read_cif_structure(path)
    name = _name(path)
    check_supported(structure.numbers, name)
    try:
        found = connect_molecules(structure.numbers, structure.frac, structure.cell)
    except ValueError as error:
        raise UserInputError(f"{name} has a cell too flat for a molecular crystal.") from error
    if keep_order:
        return _as_it_stands(structure, found, name)
    if found.infinite:
        raise UserInputError(
            f"{name} holds a chain or network of bonds that never ends; give a crystal of separate "
            "molecules."
        )
    molecules = [np.flatnonzero(found.molecule == m) for m in range(found.n_molecules)]
    molecules = [m[np.argsort(structure.numbers[m] == 1, kind="stable")] for m in molecules]
    _check_equal(structure.numbers, molecules, name)
    order = _common_order(structure.numbers, found.bonds, molecules)
    if order is None:
        raise UserInputError(
            f"{name} holds isomers (molecules of one formula but different bonds), probably "
            "through a misplaced or disordered atom; give an ordered structure."
        )
    return Crystal(
        numbers=structure.numbers[order],
        positions=found.frac[order] @ structure.cell,
        cell=structure.cell,
        z=len(molecules),
    )


def read_cif_structure(path: str | Path) -> CifStructure:
    """Read the cell content of a CIF: symmetry expanded, special positions merged, D read as H.

    Raises:
        UserInputError: the file is missing, unreadable, without atoms or cell, or disordered
            beyond repair.
    """
    name = _name(path)
    block = _read_block(path, name)
    small = gemmi.make_small_structure_from_block(block)
    parameters = np.array(
        [getattr(small.cell, key) for key in ("a", "b", "c", "alpha", "beta", "gamma")]
    )
    has_cell = all(block.find_value(f"_cell_length_{axis}") for axis in "abc")
    if not has_cell or not is_valid_parameters(parameters):
        raise UserInputError(f"{name} has no valid unit cell; check the _cell_ items.")
    cell = parameters_to_cell(parameters)
    if heights(cell).min() < _MIN_HEIGHT:
        raise UserInputError(f"{name} has a cell too flat for a molecular crystal.")
    operations = _operations(block, small, name)
    sites = _ordered_sites(block, list(small.sites), len(operations), name)
    numbers, frac = _expand(sites, operations, cell, name)
    _check_distances(frac, cell, name)
    units = re.match(r"\d+", gemmi.cif.as_string(block.find_value("_cell_formula_units_Z") or "?"))
    return CifStructure(numbers, frac, cell, int(units[0]) if units else None, len(operations))


def crystal_to_cif_text(
    crystal: Crystal, name: str, comment_items: Mapping[str, str] | None = None
) -> str:
    """P1 CIF of a crystal: atom order and unwrapped coordinates kept, twelve decimals.

    Args:
        crystal: what to write. CIF stores lattice parameters, so the frame is not kept;
            fractional coordinates and all distances are.
        name: name of the data block; characters that CIF does not allow become "_".
        comment_items: written as "# key: value" lines at the top.
    """
    lines = cif_head(crystal.numbers, name, crystal.z, crystal.z, comment_items)
    lines += cell_lines(crystal.parameters, crystal.volume, crystal.density)
    lines += [
        "_space_group_name_H-M_alt 'P 1'",
        "_space_group_IT_number 1",
        "loop_",
        "_space_group_symop_operation_xyz",
        "'x, y, z'",
        "loop_",
        "_atom_site_label",
        "_atom_site_type_symbol",
        "_atom_site_fract_x",
        "_atom_site_fract_y",
        "_atom_site_fract_z",
    ]
    seen: Counter[str] = Counter()
    for number, (x, y, z) in zip(crystal.numbers.tolist(), crystal.fractional, strict=True):
        element = symbol(number)
        seen[element] += 1
        lines.append(f"{element}{seen[element]} {element} {x:.12f} {y:.12f} {z:.12f}")
    return "\n".join(lines) + "\n"


def write_cif(
    crystal: Crystal,
    path: str | Path,
    name: str | None = None,
    comment_items: Mapping[str, str] | None = None,
) -> None:
    """Write `crystal_to_cif_text` to a file; `name` defaults to the stem of the path."""
    target = Path(path)
    text = crystal_to_cif_text(crystal, name or target.stem, comment_items)
    target.write_text(text, encoding="ascii")


def _name(path: str | Path) -> str:
    return f"The CIF '{path}'"


def _read_block(path: str | Path, name: str) -> gemmi.cif.Block:
    """The one block of the file that holds atoms."""
    file = Path(path)
    if not file.is_file():
        raise UserInputError(f"{name} does not exist; check the path.")
    try:
        document = gemmi.cif.read(str(file))
    except (ValueError, RuntimeError, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise UserInputError(f"{name} cannot be read as a CIF ({reason}).") from error
    with_atoms = [b for b in document if len(b.find_loop("_atom_site_fract_x"))]
    if not with_atoms:
        raise UserInputError(f"{name} has no atoms with fractional coordinates.")
    if len(with_atoms) > 1:
        names = ", ".join(b.name for b in with_atoms[:5])
        raise UserInputError(
            f"{name} holds {len(with_atoms)} structures ({names}); keep the one to compare with."
        )
    return with_atoms[0]


def _operations(block: gemmi.cif.Block, small: gemmi.SmallStructure, name: str) -> list[gemmi.Op]:
    """Symmetry operations: the file's list, else those of its space group, else identity."""
    for tag in _SYMOP_TAGS:
        triplets = [gemmi.cif.as_string(v) for v in block.find_values(tag)]
        if not triplets:
            continue
        try:
            return [gemmi.Op(t) for t in triplets]
        except (ValueError, RuntimeError) as error:
            raise UserInputError(f"{name} has an unreadable symmetry operation.") from error
    # gemmi's stub claims a space group always; it is None where the file names none it knows.
    spacegroup: gemmi.SpaceGroup | None = small.spacegroup
    if spacegroup is not None:
        return list(spacegroup.operations())
    for tag in _SPACE_GROUP_TAGS:
        value = gemmi.cif.as_string(block.find_value(tag) or "?")
        if value:
            raise UserInputError(
                f"{name} has the unknown space group '{value}'; add its symmetry operations."
            )
    return [gemmi.Op("x,y,z")]


def _ordered_sites(
    block: gemmi.cif.Block, sites: list[gemmi.SmallStructure.Site], n_operations: int, name: str
) -> list[gemmi.SmallStructure.Site]:
    """Real atoms of one ordered alternative: of disordered parts the one most occupied."""
    assemblies = [gemmi.cif.as_string(v) for v in block.find_values("_atom_site_disorder_assembly")]
    flags = [gemmi.cif.as_string(v) for v in block.find_values("_atom_site_calc_flag")]
    assemblies = assemblies if len(assemblies) == len(sites) else [""] * len(sites)
    flags = flags if len(flags) == len(sites) else [""] * len(sites)
    real = [
        (site, assembly)
        for site, assembly, flag in zip(sites, assemblies, flags, strict=True)
        if flag != "dum" and site.occ > 0
    ]
    for site, _ in real:
        if site.element.atomic_number == 0:
            raise UserInputError(
                f"{name} has the unknown element '{site.type_symbol or site.label}'."
            )
        if not np.isfinite(site.fract.tolist()).all():
            raise UserInputError(f"{name} has no coordinates for atom {site.label}.")
    if any(site.disorder_group < 0 for site, _ in real):
        raise UserInputError(
            f"{name} is disordered about a special position; give an ordered structure."
        )
    parts: dict[str, dict[int, list[float]]] = {}
    for site, assembly in real:
        if site.disorder_group:
            parts.setdefault(assembly, {}).setdefault(site.disorder_group, []).append(site.occ)
    major = {
        assembly: min(groups, key=lambda g: (-float(np.mean(groups[g])), g))
        for assembly, groups in parts.items()
    }
    chosen = [
        site
        for site, assembly in real
        if not site.disorder_group or site.disorder_group == major[assembly]
    ]
    # An atom on a special position may carry 1/m of its m coinciding images as occupancy.
    crystallographic = {1.0 / m for m in range(2, n_operations + 1) if n_operations % m == 0}
    for site in chosen:
        partial = site.occ < 0.99 and not site.disorder_group
        if partial and not any(abs(site.occ - o) < 0.01 for o in crystallographic):
            raise UserInputError(
                f"{name} has atom {site.label} with occupancy {site.occ:g} and no disorder groups; "
                "give an ordered structure."
            )
    if not chosen:
        raise UserInputError(f"{name} has no atoms.")
    return chosen


def _expand(
    sites: list[gemmi.SmallStructure.Site],
    operations: list[gemmi.Op],
    cell: FloatArray,
    name: str,
) -> tuple[IntArray, FloatArray]:
    """Images of all sites, image by image of the asymmetric unit, coinciding ones merged."""
    den = float(gemmi.Op.DEN)
    rotations = np.array([op.rot for op in operations], dtype=np.float64) / den
    translations = np.array([op.tran for op in operations], dtype=np.float64) / den
    frac = np.array([site.fract.tolist() for site in sites])
    images = np.einsum("oij,aj->oai", rotations, frac) + translations[:, None]
    keep = np.ones(images.shape[:2], dtype=np.bool_)
    merged = images.copy()
    for a, site in enumerate(sites):
        difference = images[None, :, a] - images[:, None, a]
        difference -= np.rint(difference)
        same = np.linalg.norm(difference @ cell, axis=-1) < _SAME_SITE
        # The mean over the coinciding images lies on the symmetry element exactly.
        merged[:, a] += (same[..., None] * difference).sum(axis=1) / same.sum(axis=1)[:, None]
        keep[:, a] = ~np.tril(same, -1).any(axis=1)
        multiplicity = int(same.sum(axis=1).max())
        if site.occ < 0.99 and not site.disorder_group and abs(site.occ * multiplicity - 1) > 0.01:
            raise UserInputError(
                f"{name} has atom {site.label} with occupancy {site.occ:g} and no disorder groups; "
                "give an ordered structure."
            )
    numbers = np.array([site.element.atomic_number for site in sites], dtype=np.int64)
    return np.broadcast_to(numbers, keep.shape)[keep], merged[keep]


def _check_distances(frac: FloatArray, cell: FloatArray, name: str) -> None:
    pairs = neighbour_pairs(wrap(frac) @ cell, cell, _TOO_CLOSE)
    if len(pairs.i):
        raise UserInputError(
            f"{name} has atoms {pairs.distance.min():.2f} Å apart (unresolved disorder or repeated "
            "atoms); give an ordered structure."
        )


def _as_it_stands(structure: CifStructure, found: Connectivity, name: str) -> Crystal:
    """The atoms of a P1 file, untouched."""
    if structure.n_operations > 1:
        raise UserInputError(f"{name} has symmetry; the order of atoms can be kept in P1 only.")
    n = len(structure.numbers)
    z = structure.formula_units or found.n_molecules
    blocks = structure.numbers.reshape(z, -1) if n % z == 0 else structure.numbers[:0]
    if not blocks.size or (blocks != blocks[0]).any():
        raise UserInputError(
            f"{name} does not list its {z} molecules one after the other in one order of atoms."
        )
    return Crystal(structure.numbers, structure.frac @ structure.cell, structure.cell, z)


def _check_equal(numbers: IntArray, molecules: list[IntArray], name: str) -> None:
    formulas = Counter(hill_formula(numbers[m], 1) for m in molecules)
    if len(formulas) == 1:
        return
    listed = ", ".join(f"{count} x {formula}" for formula, count in formulas.most_common(4))
    if len({hill_formula(numbers[m][numbers[m] > 1], 1) for m in molecules}) == 1:
        raise UserInputError(
            f"{name} lacks hydrogens on some molecules ({listed}); add them or remove all."
        )
    raise UserInputError(
        f"{name} holds different molecules ({listed}); salts, solvates and co-crystals are not "
        "supported."
    )


def _common_order(numbers: IntArray, bonds: IntArray, molecules: list[IntArray]) -> IntArray | None:
    """Atom order in which all molecules agree with the first; None where the graphs differ."""
    from rdkit import Chem

    def graph(atoms: IntArray) -> Chem.Mol:
        local = {int(a): k for k, a in enumerate(atoms)}
        mol = Chem.RWMol()
        for a in atoms:
            atom = Chem.Atom(int(numbers[a]))
            atom.SetNoImplicit(True)
            mol.AddAtom(atom)
        for i, j in bonds.tolist():
            if i in local and j in local:
                mol.AddBond(local[i], local[j], Chem.BondType.SINGLE)
        return mol.GetMol()

    first = graph(molecules[0])
    edges = {tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in first.GetBonds()}
    order = [molecules[0]]
    for atoms in molecules[1:]:
        mol = graph(atoms)
        own = {tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in mol.GetBonds()}
        if own == edges and (numbers[atoms] == numbers[molecules[0]]).all():
            order.append(atoms)
            continue
        match = mol.GetSubstructMatch(first) if len(own) == len(edges) else ()
        if len(match) != len(atoms):
            return None
        order.append(atoms[list(match)])
    return np.concatenate(order)
