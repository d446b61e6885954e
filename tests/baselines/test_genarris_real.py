"""The real program from end to end, where it is installed."""

import shutil

import numpy as np
import pytest
from genarris_folders import UREA

from packflow_core.baselines.genarris import (
    GenarrisParams,
    find_genarris,
    genarris_row,
    outcome,
    read_structures,
    run_genarris,
    shortlist,
    write_inputs,
)
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.store.rows import crystal_of
from packflow_core.store.schema import Status


def installed():
    try:
        found = find_genarris()
    except Exception:
        return False
    return found is not None and found.mpirun is not None


pytestmark = pytest.mark.skipif(not installed(), reason="Genarris is not installed")


@pytest.mark.parametrize("method", ["plain", "rigid_press"])
def test_from_smiles_to_shortlist_twice_the_same(tmp_path, method):
    molecule = Molecule.from_smiles(UREA)
    conformer = conformer_pool(molecule).positions[0]
    params = GenarrisParams(
        method=method, z_values=(2,), structures_per_group=3, space_groups=(2, 4), timeout_s=300
    )
    seen = []
    pools = []
    for name in ("first", "second"):
        folder = tmp_path / name
        write_inputs(folder, molecule, conformer, params)
        run_genarris(folder, params, seen.append)
        found = outcome(folder)
        assert found.state == "success", found.sentence
        structures = read_structures(folder)
        assert len(structures) >= found.structures > 0
        pools.append([s for s in structures if s.ok])
        shutil.rmtree(folder)
    assert seen[-1].phase == "finished"
    for a, b in zip(*pools, strict=True):
        assert a.original_id == b.original_id
        assert (a.crystal.positions == b.crystal.positions).all()
    assert {s.attempted_space_group for s in pools[0]} <= {2, 4}
    chosen = shortlist(pools[0], 3, seed=0)
    assert len(chosen) == min(3, len(pools[0]))
    row = genarris_row(chosen[0], molecule, target="urea", index=0, seed=0, engine="genarris")
    assert row["status"] == Status.OK
    assert (crystal_of(row).numbers == np.tile(molecule.numbers_h, 2)).all()
