"""Cells agree whatever their setting, and only when they do."""

import gemmi
import numpy as np
import pytest

from packflow_core.campaign import KnownForm, find_campaign, read_campaign
from packflow_core.campaign_cells import best_agreement
from packflow_core.crystal.lattice import parameters_to_cell

FORMS = [
    form
    for target in read_campaign(find_campaign("blind_test")).targets
    for form in target.known
    if form.cell is not None
]
#: Another basis of the same lattice: determinant 1, far from reduced.
SHEAR = np.array([[1, 1, 0], [0, 1, 2], [1, 1, 1]])


def row(cell, z, rank=1, **columns):
    cell = np.asarray(cell)
    return {
        "rank": rank, "candidate_id": f"c{rank}", "z": z, "cell": cell.ravel().tolist(),
        "volume_A3": abs(np.linalg.det(cell)), "density_g_cm3": 1.5,
        "lattice_energy_rel_kJ_mol": 2.5, "space_group_number": 14, **columns,
    }  # fmt: skip


def primitive(form):
    group = gemmi.SpaceGroup(form.space_group)
    parameters = gemmi.GruberVector(gemmi.UnitCell(*form.cell), group).cell_parameters()
    return parameters_to_cell(parameters), form.z // (2 if group.centring_type() == "C" else 1)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.refcode)
def test_a_form_is_found_in_any_setting_and_size(form):
    cell, z = primitive(form)
    rows = [row(cell * np.array([[1.3], [1], [1]]), z), row(0.95 * SHEAR @ cell, z, rank=2)]
    found = best_agreement(form, rows)
    assert (found.rank, found.candidate_id, found.energy_kJ_mol) == (2, "c2", 2.5)
    assert found.same_space_group == (form.space_group_number == 14)


def test_another_cell_z_or_volume_is_none():
    form = next(form for form in FORMS if form.refcode == "OBEQOD")
    cell, z = primitive(form)
    assert best_agreement(form, [row(cell, z)])
    assert best_agreement(form, [row(cell, 2)]) is None
    assert best_agreement(form, [row(0.9 * cell, z)]) is None  # 27 % smaller
    assert best_agreement(form, [row(cell, z, rank=None)]) is None
    # The same lengths with another angle.
    bent = parameters_to_cell([*form.cell[:3], 90, 110, 90])
    assert best_agreement(form, [row(bent, z)]) is None
    assert best_agreement(KnownForm(refcode="OBEQOD", z=4), [row(cell, z)]) is None


def test_forms_of_one_molecule_are_told_apart():
    forms = {form.refcode: form for form in FORMS if form.refcode.startswith("XAFPAY")}
    for name, form in forms.items():
        cell, z = primitive(form)
        agreeing = [other for other in forms if best_agreement(forms[other], [row(cell, z)])]
        assert agreeing == [name]
