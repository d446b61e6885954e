import numpy as np
import pytest
import torch
from packing_molecules import SMALL, shape

from packflow_core.baselines.molecular_symmetry import symmetries
from packflow_core.baselines.packing_pairs import Shape, vdw_sums
from packflow_core.baselines.press_batch import Batch
from packflow_core.baselines.press_lists import Member
from packflow_core.baselines.random_packing import PackParams, pack
from packflow_core.baselines.space_groups import space_group
from packflow_core.chem.elements import VDW_RADII
from packflow_core.crystal.contacts import intermolecular_pairs

SCALE, PRESSURE = 0.95, 0.03


def overlapping(number, index=0, z_prime=1, smiles=SMALL, site=None):
    molecule, conformer = shape(smiles)
    symmetry = [s for s in symmetries(molecule, conformer) if s.kind == site]
    order = len(space_group(number).representatives)
    z = order // 2 if site else order * z_prime
    params = PackParams(space_groups=(number,), max_z_prime=z_prime)
    for k in range(index, index + 50):
        found = pack(molecule.numbers_h, conformer, z, 1, k, params, symmetry)
        if found.packing is not None and found.choice.site == (site or "1"):
            return found.packing.grown(0.78)
    raise AssertionError("no packing")


def batch_of(packings):
    members = [Member(p, Shape(p.offsets, SCALE * vdw_sums(p.numbers))) for p in packings]
    batch = Batch(members, max(len(p.centres) for p in packings))
    return batch, torch.full((len(packings),), PRESSURE, dtype=torch.float64)


CASES = {
    "triclinic": lambda: overlapping(1),
    "inversion": lambda: overlapping(2),
    "monoclinic": lambda: overlapping(14),
    "centred": lambda: overlapping(15),
    "orthorhombic": lambda: overlapping(33),
    "tetragonal": lambda: overlapping(96),
    "trigonal": lambda: overlapping(161),
    "hexagonal": lambda: overlapping(169),
    "cubic": lambda: overlapping(198),
    "two molecules": lambda: overlapping(4, z_prime=2),
    "three molecules": lambda: overlapping(1, z_prime=3),
    "on a centre": lambda: overlapping(14, smiles="c1ccc2ccccc2c1", site="-1"),
    "on an axis": lambda: overlapping(15, smiles="OC(=O)CCC(=O)O", site="2"),
    "on a mirror": lambda: overlapping(62, smiles="Cc1ccccc1", site="m"),
}


@pytest.fixture(scope="module")
def packings():
    return {name: make() for name, make in CASES.items()}


def allowed(packing, count):
    """Directions [k, D] in which a packing may move, as in the gradient."""
    used = len(packing.parameters)
    out = [row for row in np.eye(count) if not row[used:6].any()]
    if packing.site is None:
        return np.array(out)
    # Shifts v = R v and turns w = det(R) R w of the operation R of the special position.
    matrix = packing.group.cartesian[packing.site.operation]
    out = [row for row in out if row[:6].any()]
    for first, image in ((6, matrix), (9, np.linalg.det(matrix) * matrix)):
        values, vectors = np.linalg.eigh(image)
        for vector in vectors.T[values > 0.5]:
            out.append(np.zeros(count))
            out[-1][first : first + 3] = vector
    return np.array(out)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_derivative_of_the_energy(packings, name):
    packing = packings[name]
    batch, pressure = batch_of([packing])
    start = batch.geometry()
    energy, gradient = batch.energy(start, pressure)
    assert energy.item() > PRESSURE * packing.volume_per_molecule * len(packing.centres)
    h = 1e-5
    free = allowed(packing, len(gradient))
    for direction in torch.from_numpy(free):
        step = h * direction[:, None]
        up, _ = batch.energy(batch.moved(start, step), pressure)
        down, _ = batch.energy(batch.moved(start, -step), pressure)
        numeric = (up - down).item() / (2 * h)
        assert numeric == pytest.approx(float(gradient[:, 0] @ direction), abs=2e-6)
    # Nothing pulls in any other direction.
    rest = gradient[:, 0].numpy() - free.T @ (free @ gradient[:, 0].numpy())
    assert np.abs(rest).max() < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_energy_is_that_of_the_whole_crystal(packings, name):
    packing = packings[name]
    batch, pressure = batch_of([packing])
    energy, _ = batch.energy(batch.geometry(), pressure)
    crystal = packing.crystal()
    pairs = intermolecular_pairs(crystal, 2.0 * SCALE * VDW_RADII[crystal.numbers].max())
    sums = VDW_RADII[crystal.numbers[pairs.i]] + VDW_RADII[crystal.numbers[pairs.j]]
    missing = np.maximum(SCALE * sums - pairs.distance, 0.0)
    # Directed pairs come twice.
    whole = 0.25 * (missing @ missing) + PRESSURE * crystal.volume
    assert energy.item() == pytest.approx(whole * len(packing.centres) / crystal.z, rel=1e-10)


@pytest.mark.parametrize("name", ["on a centre", "on an axis", "on a mirror"])
def test_gradients_keep_molecules_on_their_special_positions(packings, name):
    packing = packings[name]
    batch, pressure = batch_of([packing])
    rng = torch.Generator().manual_seed(1)
    geometry = batch.geometry()
    for _ in range(20):
        _, gradient = batch.energy(geometry, pressure)
        step = -0.02 * gradient / gradient.norm()
        step[:6] += 0.01 * torch.randn(6, 1, generator=rng, dtype=torch.float64)
        step[len(packing.parameters) : 6] = 0.0
        geometry = batch.moved(geometry, step)
    site, group = packing.site, packing.group
    centre = geometry.centres[:, 0, 0].numpy()
    image = group.rotations[site.operation] @ centre
    image += group.translations[site.operation] + site.shift
    np.testing.assert_allclose(image, centre, atol=1e-12)
    from packflow_core.baselines.packing import quaternion_turns

    atoms = packing.offsets @ quaternion_turns(geometry.turns[:, 0, 0].numpy()).T
    mirrored = atoms @ group.cartesian[site.operation].T
    nearest = np.linalg.norm(mirrored[:, None] - atoms, axis=-1).min(axis=1)
    assert nearest.max() < 1e-10


def test_energies_do_not_depend_on_batch_mates(packings):
    same = [overlapping(number, index=k) for number in (2, 14, 19) for k in range(3)]
    batch, pressure = batch_of(same)
    energy, gradient = batch.energy(batch.geometry(), pressure)
    for k, packing in enumerate(same):
        alone, own = batch_of([packing])
        e, g = alone.energy(alone.geometry(), own)
        assert e[0] == energy[k]
        assert torch.equal(g[:, 0], gradient[:, k])


def test_old_lists_give_the_numbers_of_new_ones():
    packings = [overlapping(number) for number in (2, 14, 33, 96)]
    batch, pressure = batch_of(packings)
    geometry = batch.geometry()
    rng = torch.Generator().manual_seed(0)
    for _ in range(25):
        step = 0.06 * torch.randn(12, 4, generator=rng, dtype=torch.float64)
        for k, packing in enumerate(packings):
            step[len(packing.parameters) : 6, k] = 0.0
        geometry = batch.moved(geometry, step)
        energy, gradient = batch.energy(geometry, pressure)
        fresh, _ = batch_of(packings)
        again, other = fresh.energy(geometry, pressure)
        assert torch.equal(energy, again)
        assert torch.equal(gradient, other)


def test_a_cell_too_flat_to_search_has_infinite_energy(packings):
    from dataclasses import replace

    packing = packings["orthorhombic"]
    flat = replace(packing, parameters=packing.parameters * np.array([1.0, 1.0, 1e-5]))
    batch, pressure = batch_of([packing, flat])
    energy, _ = batch.energy(batch.geometry(), pressure)
    assert torch.isfinite(energy).tolist() == [True, False]
    assert "too many images" in batch.members[1].fault
    # It can recover.
    energy, _ = batch.energy(batch_of([packing, packing])[0].geometry(), pressure)
    assert energy[0] == energy[1]
