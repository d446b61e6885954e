"""CIF files: literature cells with symmetry, our own files, and what users get wrong."""

import numpy as np
import pytest

from packflow_core.crystal.cif import crystal_to_cif_text, read_cif, read_cif_structure, write_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.crystal.unwrap import find_bonds
from packflow_core.errors import UserInputError

# Urea, neutron diffraction at 123 K (Swaminathan et al., Acta Cryst. B40, 300, 1984): every atom
# on a mirror plane, C and O on a twofold axis as well.
UREA = """\
data_urea
_cell_length_a 5.584(1)
_cell_length_b 5.584(1)
_cell_length_c 4.689(1)
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
{symmetry}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
C1 C 0 0.5 0.3280(1)
O1 O 0 0.5 0.5962(1)
N1 N 0.1447 0.6447 0.1784
{h}1 {h} 0.2557 0.7557 0.2841
{h}2 {h} 0.1428 0.6428 -0.0339
"""
UREA_SYMMETRY = "_symmetry_space_group_name_H-M 'P -4 21 m'"
UREA_OPERATIONS = """\
loop_
_symmetry_equiv_pos_as_xyz
x,y,z
-x,-y,z
y,-x,-z
-y,x,-z
1/2-x,1/2+y,-z
1/2+x,1/2-y,-z
1/2-y,1/2-x,z
1/2+y,1/2+x,z"""
# Benzene at 138 K (Bacon et al., Proc. R. Soc. A 279, 98, 1964): half a molecule is given.
BENZENE = """\
data_benzene
_cell_length_a 7.39
_cell_length_b 9.42
_cell_length_c 6.81
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P b c a'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
C1 -0.0569 0.1387 -0.0054
C2 -0.1335 0.0460 0.1264
C3 -0.0774 -0.0925 0.1295
H1 -0.0976 0.2447 -0.0177
H2 -0.2409 0.0794 0.2218
H3 -0.1371 -0.1631 0.2312
"""
P1 = """\
data_x
_cell_length_a 10
_cell_length_b 10
_cell_length_c 10
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{extra}
{atoms}
"""


def p1(atoms, extra=""):
    return P1.format(atoms=atoms, extra=extra)


@pytest.fixture
def cif(tmp_path):
    def write(text, name="ref.cif"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def per_molecule_bonds(crystal):
    bonds, shifts = find_bonds(crystal.numbers, crystal.fractional, crystal.cell)
    assert not shifts.any(), "molecules are not whole"
    molecule = crystal.molecule_index
    assert (molecule[bonds[:, 0]] == molecule[bonds[:, 1]]).all()
    n = len(crystal) // crystal.z
    return [sorted((bonds[molecule[bonds[:, 0]] == m] - m * n).tolist()) for m in range(crystal.z)]


@pytest.mark.parametrize("hydrogen", ["H", "D"])
@pytest.mark.parametrize("symmetry", [UREA_SYMMETRY, UREA_OPERATIONS])
def test_urea_has_two_molecules_on_special_positions(cif, symmetry, hydrogen):
    crystal = read_cif(cif(UREA.format(symmetry=symmetry, h=hydrogen)))
    assert crystal.z == 2
    # one molecule: heavy atoms first
    assert crystal.numbers.reshape(2, -1).tolist() == [[6, 8, 7, 7, 1, 1, 1, 1]] * 2
    assert crystal.density == pytest.approx(1.364, abs=2e-3)
    first, second = per_molecule_bonds(crystal)
    assert first == second
    x = crystal.positions
    assert np.linalg.norm(x[1] - x[0]) == pytest.approx(1.258, abs=2e-3)  # C=O of the paper
    assert np.linalg.norm(x[2] - x[0]) == pytest.approx(1.341, abs=5e-3)  # C-N


def test_benzene_is_completed_by_the_inversion_centre(cif):
    crystal = read_cif(cif(BENZENE))
    assert crystal.z == 4
    assert crystal.numbers.reshape(4, -1).tolist() == [[6] * 6 + [1] * 6] * 4
    bonds = per_molecule_bonds(crystal)
    assert all(b == bonds[0] for b in bonds)
    assert len(bonds[0]) == 12
    for molecule in crystal.positions.reshape(4, 12, 3):
        for i, j in bonds[0]:
            length = np.linalg.norm(molecule[i] - molecule[j])
            assert length == pytest.approx(1.39 if max(i, j) < 6 else 1.08, abs=0.04)


def test_equal_molecules_share_one_order_of_atoms(cif):
    crystal = read_cif(cif(UREA.format(symmetry=UREA_SYMMETRY, h="H")))
    rng = np.random.default_rng(3)
    shuffle = rng.permutation(len(crystal))
    text = crystal_to_cif_text(
        Crystal(crystal.numbers[shuffle], crystal.positions[shuffle], crystal.cell, 1), "shuffled"
    )
    again = read_cif(cif(text))
    assert again.z == 2
    first, second = per_molecule_bonds(again)
    assert first == second
    assert (again.numbers[:8] == again.numbers[8:]).all()
    assert again.density == pytest.approx(crystal.density)


def test_hydrogens_may_be_missing(cif):
    text = "\n".join(
        line for line in BENZENE.splitlines() if not line.startswith(("H1", "H2", "H3"))
    )
    crystal = read_cif(cif(text))
    assert (crystal.z, len(crystal)) == (4, 24)


def a_crystal():
    rng = np.random.default_rng(0)
    cell = parameters_to_cell((7.1, 8.2, 9.3, 81.0, 97.0, 112.0))
    shape = np.array([[0, 0, 0], [1.21, 0, 0], [-0.55, 0.93, 0], [-0.55, -0.93, 0]])
    places = np.array([[-1.2, 0.1, 0.3], [1.6, 2.5, -0.2]]) @ cell
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in places]
    positions = [shape @ t + p for t, p in zip(turns, places, strict=True)]
    return Crystal(np.tile([6, 8, 1, 1], 2), np.concatenate(positions), cell, 2)


def test_written_files_come_back_exactly(tmp_path):
    crystal = a_crystal()
    path = tmp_path / "made.cif"
    write_cif(crystal, path, "made here", {"energy": "-1.25 eV", "note": "line\nbreak Å"})
    back = read_cif(path, keep_order=True)
    assert back.z == 2
    assert (back.numbers == crystal.numbers).all()
    assert back.positions == pytest.approx(crystal.positions, abs=1e-10)
    text = path.read_text()
    assert text.splitlines()[:3] == ["# energy: -1.25 eV", "# note: line break ?", "data_made_here"]
    assert "_cell_formula_units_Z 2" in text
    assert "_chemical_formula_sum 'C H2 O'" in text
    labels = [
        line.split()[0] for line in text.splitlines() if line[:1] in "CHO" and line[1:2] != ""
    ]
    assert len(labels) == len(set(labels)) == 8


def test_reading_again_places_molecules_canonically(tmp_path):
    crystal = a_crystal()
    write_cif(crystal, tmp_path / "made.cif")
    back = read_cif(tmp_path / "made.cif")
    moved = (back.fractional - crystal.fractional).reshape(2, 4, 3)
    assert moved == pytest.approx(np.rint(moved[:, :1]).repeat(4, axis=1), abs=1e-9)
    assert abs(moved).max() > 0.5


def test_z_of_a_clashing_crystal_comes_from_the_file(tmp_path):
    crystal = a_crystal()
    near = crystal.positions.copy()
    near[4:] = near[:4] + 0.9  # connectivity would see one molecule
    write_cif(crystal.with_positions(near), tmp_path / "clash.cif")
    assert read_cif(tmp_path / "clash.cif", keep_order=True).z == 2


def test_the_larger_disordered_part_is_taken(cif):
    extra = "_atom_site_occupancy\n_atom_site_disorder_group\n_atom_site_disorder_assembly"
    atoms = "\n".join(
        [
            "C1 C 0.1 0.1 0.1 1 . .",
            "O1 O 0.22 0.1 0.1 1 . .",
            "F1A F 0.05 0.22 0.1 0.3 1 A",
            "F1B F 0.04 0.2 0.17 0.7 2 A",
            "CL1A Cl 0.02 0.0 0.0 0.6 1 B",
            "CL1B Cl 0.05 0.0 0.97 0.4 2 B",
        ]
    )
    structure = read_cif_structure(cif(p1(atoms, extra)))
    assert structure.numbers.tolist() == [6, 8, 9, 17]
    assert structure.frac[2] == pytest.approx([0.04, 0.2, 0.17])
    assert structure.frac[3] == pytest.approx([0.02, 0.0, 0.0])


CO = "C1 C 0.1 0.1 0.1\nO1 O 0.22 0.1 0.1"
BAD_FILES = {
    "empty": ("", "no atoms with fractional coordinates"),
    "not_a_cif": ("REMARK nothing\nATOM 1", "cannot be read as a CIF"),
    "no_atoms": ("data_x\n_cell_length_a 5\n", "no atoms with fractional coordinates"),
    "no_cell": (p1(CO).replace("_cell_length_b 10\n", ""), "no valid unit cell"),
    "bad_cell": (p1(CO).replace("_cell_length_b 10\n", "_cell_length_b 0\n"), "no valid unit cell"),
    "flat_cell": (p1(CO).replace("_cell_length_b 10\n", "_cell_length_b 0.1\n"), "too flat"),
    "no_place": (p1("C1 C 0.1 ? 0.1"), "no coordinates for atom C1"),
    "strange_element": (p1("X1 Xx 0.1 0.1 0.1"), "unknown element 'Xx'"),
    "metal": (p1("Fe1 Fe 0.1 0.1 0.1"), "contains Fe"),
    "repeated": (p1(CO + "\nC2 C 0.102 0.1 0.1"), "apart (unresolved disorder or repeated"),
    "solvate": (p1(CO + "\nO2 O 0.6 0.6 0.6"), "different molecules (1 x C O, 1 x O)"),
    "some_hydrogens": (
        p1("O1 O 0.1 0.1 0.1\nH1 H 0.19 0.1 0.1\nO2 O 0.6 0.6 0.6"),
        "lacks hydrogens on some molecules",
    ),
    "network": (
        p1("\n".join(f"C{k} C 0.5 0.5 {k / 7:.4f}" for k in range(7))),
        "chain or network",
    ),
    "isomers": (
        p1(
            "C1 C .1 .1 .1\nC2 C .25 .1 .1\nO1 O .37 .1 .1\nC3 C .1 .6 .6\nO2 O .24 .6 .6\n"
            "C4 C .38 .6 .6"
        ),
        "isomers",
    ),
    "partial": (
        p1("C1 C 0.1 0.1 0.1 1\nO1 O 0.22 0.1 0.1 0.37", "_atom_site_occupancy"),
        "atom O1 with occupancy 0.37 and no disorder groups",
    ),
    "half": (
        p1("C1 C 0.1 0.1 0.1 1\nO1 O 0.22 0.1 0.1 0.5", "_atom_site_occupancy"),
        "atom O1 with occupancy 0.5 and no disorder groups",
    ),
    "special_disorder": (
        p1("C1 C 0.1 0.1 0.1 -1", "_atom_site_disorder_group"),
        "disordered about a special position",
    ),
    "two_structures": (p1(CO) + p1(CO).replace("data_x", "data_y"), "2 structures (x, y)"),
    "space_group": (
        "_space_group_name_H-M_alt 'Q 17'\n".join(p1(CO).split("loop_", 1)).replace(
            "'Q 17'\n", "'Q 17'\nloop_"
        ),
        "unknown space group 'Q 17'",
    ),
    "operation": (UREA.format(symmetry=UREA_OPERATIONS, h="H").replace("y,-x,-z", "y,w,-z"),
                  "unreadable symmetry operation"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD_FILES))
def test_bad_files_get_one_sentence(cif, case):
    text, words = BAD_FILES[case]
    path = cif(text, f"{case}.cif")
    with pytest.raises(UserInputError) as caught:
        read_cif(path)
    message = str(caught.value)
    assert words in message
    assert str(path) in message
    assert "\n" not in message


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserInputError, match="does not exist"):
        read_cif(tmp_path / "none.cif")
    with pytest.raises(UserInputError, match="does not exist"):
        read_cif(tmp_path)
    (tmp_path / "noise.cif").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(UserInputError, match="cannot be read as a CIF"):
        read_cif(tmp_path / "noise.cif")


def test_half_occupied_atoms_on_an_axis_are_whole(cif):
    text = UREA.format(symmetry=UREA_SYMMETRY, h="H").replace(
        "_atom_site_fract_z\n", "_atom_site_fract_z\n_atom_site_occupancy\n"
    )
    lines = [
        f"{line} {0.25 if line[:2] in ('C1', 'O1') else 0.5}" if line[:2] in
        ("C1", "O1", "N1", "H1", "H2") else line
        for line in text.splitlines()
    ]  # fmt: skip
    assert read_cif(cif("\n".join(lines))).numbers.tolist() == [6, 8, 7, 7, 1, 1, 1, 1] * 2


def test_order_cannot_be_kept_with_symmetry_or_mixed_atoms(cif):
    with pytest.raises(UserInputError, match="in P1 only"):
        read_cif(cif(BENZENE), keep_order=True)
    mixed = p1("C1 C .1 .1 .1\nC2 C .6 .6 .6\nO1 O .22 .1 .1\nO2 O .72 .6 .6")
    with pytest.raises(UserInputError, match="one after the other"):
        read_cif(cif(mixed), keep_order=True)
    assert read_cif(cif(mixed)).numbers.tolist() == [6, 8, 6, 8]
