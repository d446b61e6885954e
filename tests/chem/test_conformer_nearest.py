"""Which conformers a crystal is made of: known ones, turned, mirrored, renamed and shaken."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from packflow_core.chem.conformer_nearest import nearest_conformer, nearest_of
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_pool import make_ensemble
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal


def pool_of(smiles, **fields):
    return make_ensemble(Molecule.from_smiles(smiles), ConformerParams(n_embed=40, **fields))


def molecules_of(pool, places, seed=0, noise=0.0, hand=1.0):
    """Conformers [z, n_atoms, 3], each turned, moved and with equivalent heavy atoms renamed."""
    rng = np.random.default_rng(seed)
    n = pool.molecule.n_heavy
    symmetries = pool.comparer.symmetry.permutations
    out = []
    for k in places:
        x = hand * pool.positions[k]
        # Hydrogens keep their names here; nothing but the heavy atoms is compared.
        x = np.concatenate([x[symmetries[rng.integers(len(symmetries))]], x[n:]])
        x = Rotation.random(random_state=rng).apply(x) + 5.0 * rng.normal(size=3)
        out.append(x + noise * rng.normal(size=x.shape))
    return np.stack(out)


def crystal_of(pool, molecules, hydrogens=True):
    numbers = pool.molecule.numbers_h if hydrogens else pool.molecule.numbers
    x = molecules if hydrogens else molecules[:, : pool.molecule.n_heavy]
    z = len(x)
    return Crystal(np.tile(numbers, z), x.reshape(-1, 3), 30.0 * np.eye(3), z)


@pytest.mark.parametrize("hydrogens", [True, False])
@pytest.mark.parametrize(
    "smiles",
    [
        "CCCCCC",
        "O=[N+]([O-])c1ccc(CCCC)cc1",
        "CC(C)CC[C@H](C)C(=O)OC",
        "FC(F)(F)CCc1cc(C(F)(F)F)cc(C(F)(F)F)c1",
        "c1ccccc1",
    ],
)
def test_known_conformers_are_recognised(smiles, hydrogens):
    pool = pool_of(smiles, polar_hydrogens=False)
    places = np.arange(12) % len(pool)
    for hand in (1.0, -1.0) if pool.comparer.mirror else (1.0,):
        exact = crystal_of(pool, molecules_of(pool, places, hand=hand), hydrogens)
        index, rmsd = nearest_conformer(exact, pool)
        assert index.tolist() == places.tolist()
        assert rmsd == pytest.approx(np.zeros(12), abs=1e-5)
    shaken = crystal_of(pool, molecules_of(pool, places, noise=0.05), hydrogens)
    index, rmsd = nearest_conformer(shaken, pool)
    assert index.tolist() == places.tolist()
    # 0.05 Å in three directions, less what the superposition takes away.
    assert (rmsd < 0.05 * np.sqrt(3) * 1.4).all()
    assert (rmsd > 0.02).all()


def test_the_wrong_hand_of_a_chiral_molecule_does_not_fit():
    pool = pool_of("C[C@H](O)c1ccccc1")
    right, wrong = molecules_of(pool, [0]), molecules_of(pool, [0], hand=-1.0)
    assert nearest_of(right, pool)[1] < 1e-5
    assert nearest_of(wrong, pool)[1] > 0.2


def test_hydrogens_decide_between_rotamers_of_a_hydroxyl_group():
    pool = pool_of("CC(=O)Nc1ccc(O)cc1")
    assert len(pool) == 2
    molecules = molecules_of(pool, [1, 0, 1], noise=0.03)
    assert nearest_of(molecules, pool)[0].tolist() == [1, 0, 1]
    # Without hydrogens both fit equally well.
    heavy = molecules[:, : pool.molecule.n_heavy]
    assert (nearest_of(heavy, pool)[1] < 0.1).all()


def test_answer_is_that_of_comparing_with_all():
    pool = pool_of("CCCCCCC", polar_hydrogens=False, rmsd_A=0.1, window_kJ_mol=60.0)
    rng = np.random.default_rng(5)
    molecules = molecules_of(pool, rng.integers(len(pool), size=40), noise=0.4)
    index, rmsd = nearest_of(molecules, pool)
    every = pool.comparer.rmsd(pool.shapes, pool.comparer.shapes(molecules))
    assert rmsd == pytest.approx(every.min(axis=0), abs=1e-9)
    assert (index == every.argmin(axis=0)).all()
    assert len(set(index.tolist())) > 5


def test_molecules_do_not_depend_on_each_other():
    pool = pool_of("OCCCCO")
    molecules = molecules_of(pool, [0, 1, 2, 1], noise=0.2)
    index, rmsd = nearest_of(molecules, pool)
    alone = [nearest_of(one[None], pool) for one in molecules]
    assert index.tolist() == [int(i[0]) for i, _ in alone]
    assert rmsd.tolist() == [float(r[0]) for _, r in alone]


def test_another_molecule_is_refused():
    pool, other = pool_of("CCO"), pool_of("CCN")
    with pytest.raises(ValueError, match="not made of molecules CCO"):
        nearest_conformer(crystal_of(other, other.positions[:1]), pool)
    with pytest.raises(ValueError, match="not made of molecules CCO"):
        nearest_conformer(Crystal(np.array([6, 8]), np.eye(3)[:2], 9 * np.eye(3), 1), pool)
