"""Symmetric proposals in the stage `hydrogenate`."""

import numpy as np
import pytest

from packflow_core.analysis.symmetry import find_symmetry
from packflow_core.baselines.random_packing import PackParams, pack
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import niggli_cell
from packflow_core.stages.hydrogenate import HydrogenateParams, hydrogenate, hydrogenate_many
from packflow_core.store.rows import crystal_columns, crystal_of

ASPIRIN = Molecule.from_smiles("CC(=O)Oc1ccccc1C(=O)O")
ALANINE = Molecule.from_smiles("C[C@H](N)C(=O)O")
DEFAULT = HydrogenateParams()


def proposal(index, molecule=ASPIRIN, number=14, z=4, volume=212.0, hand=1.0, **more):
    """Row of a symmetric crystal of heavy atoms, a tenth too small, with overlaps."""
    x = conformer_pool(molecule).positions[0]
    params = PackParams(space_groups=(number,), special_positions=False)
    packing = pack(molecule.numbers_h, x, z, 5, index, params).packing
    shrink = (0.9 * volume / packing.volume_per_molecule) ** (1 / 3)
    heavy = packing.grown(shrink).crystal().heavy_only()
    crystal = Crystal(heavy.numbers, hand * heavy.positions, niggli_cell(heavy.cell), z)
    row = {
        "candidate_id": f"x-{index}", "index": index, "target": "t", "seed": 0, "status": "ok",
        "reason": "", "detail": "", "method": "packflow-open", "space_group_drawn": number,
        "expected_volume_A3": volume, **more,
    }  # fmt: skip
    row.update(crystal_columns(crystal, hydrogens_missing=z * int(molecule.hydrogen_counts.sum())))
    return row


def test_a_proposal_is_pressed_in_its_group_to_the_expected_volume():
    row = hydrogenate(proposal(0), ASPIRIN, DEFAULT)
    assert (row["status"], row["detail"]) == ("ok", "pressed in P21/c")
    crystal = crystal_of(row)
    assert crystal.numbers.tolist() == np.tile(ASPIRIN.numbers_h, 4).tolist()
    assert crystal.volume / 4 == pytest.approx(212.0, rel=0.02)
    assert find_symmetry(crystal).number == 14
    assert row["bonds_ok"] == 1.0
    assert row["repair_rmsd_A"] < 1e-3
    assert row["min_contact"] > 0.8


def test_a_group_is_pressed_as_each_alone():
    rows = [proposal(k) for k in range(3)]
    together = hydrogenate_many(rows, ASPIRIN, DEFAULT)
    alone = hydrogenate(rows[1], ASPIRIN, DEFAULT)
    assert together[1]["positions"] == alone["positions"]
    assert together[1]["cell"] == alone["cell"]


def test_without_group_or_switch_overlaps_are_relieved_as_before():
    for row, params in [
        (proposal(0, space_group_drawn=None), DEFAULT),
        (proposal(0), HydrogenateParams(press=False)),
    ]:
        out = hydrogenate(row, ASPIRIN, params)
        assert "pressed" not in out["detail"]
        assert out["press_contact"] is None
        assert out["status"] == "ok"


def test_the_wrong_hand_is_mirrored():
    row = proposal(0, ALANINE, number=19, volume=105.0, hand=-1.0)
    out = hydrogenate(row, ALANINE, DEFAULT)
    assert out["detail"] == "mirror image taken; pressed in P212121"
    again = hydrogenate(
        {**out, "space_group_drawn": None}, ALANINE, HydrogenateParams(repair=False)
    )
    assert (again["status"], again["stereo_flipped"]) == ("ok", 0)


def test_a_volume_that_the_row_lacks_is_its_own():
    row = proposal(0)
    row["expected_volume_A3"] = None
    crystal = crystal_of(hydrogenate(row, ASPIRIN, DEFAULT))
    assert crystal.volume / 4 == pytest.approx(0.9 * 212.0, rel=0.04)
