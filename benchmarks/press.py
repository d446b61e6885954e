"""How fast `random` and `random+press` are, and how dense what they make is.

    python benchmarks/press.py                        # aspirin and urea, beside PyXtal if installed
    python benchmarks/press.py --forms DIR            # densities over those of known forms

Everything is measured in one run on one CPU: random packing; the press to the diameter that suits
the molecule; the press to 0.855 of the van der Waals sum, the contact to which Rigid Press of
Genarris compresses (0.85); and PyXtal's packing at a volume it manages quickly. Ratios between
these carry over to other machines. Genarris itself needs a compiler and is not run here; its
recorded times (1 and 2 ranks, another machine) are there for the order of magnitude.

DIR holds CIF files' densities in a `manifest.csv` with the columns smiles, mol_hash, density and
homomolecular; forms of one molecule are averaged.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from packflow_core.baselines.molecular_symmetry import symmetries
from packflow_core.baselines.press import calibrated, press
from packflow_core.baselines.press_params import PressParams
from packflow_core.baselines.random_packing import PackParams, expected_volume, pack
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.elements import AMU_PER_A3_TO_G_CM3
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import PackflowError

#: Genarris 3.1.4: CPU seconds a structure, and mean volume in Å3 of the cell (Z = 4).
GENARRIS = {
    "CC(=O)Oc1ccccc1C(=O)O": ("aspirin", 2 * (0.13 + 2.0), 736.0),
    "NC(N)=O": ("urea", 2 * (0.028 + 0.45), 217.0),
}
#: Volume factors at which PyXtal's loose packings were recorded.
PYXTAL_FACTOR = {"CC(=O)Oc1ccccc1C(=O)O": 0.69, "NC(N)=O": 0.9}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=200, help="candidates of each molecule")
    parser.add_argument("--z", type=int, default=4, help="molecules in the primitive cell")
    parser.add_argument("--forms", type=Path, help="folder with a manifest.csv of known forms")
    parser.add_argument("--every", type=int, default=1, help="take every such molecule of forms")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.forms:
        densities(args.forms, args.n, args.z, args.every)
    else:
        for smiles in GENARRIS:
            throughput(smiles, args.n, args.z)


def throughput(smiles: str, n: int, z: int) -> None:
    """Print CPU seconds a structure and volumes."""
    molecule = Molecule.from_smiles(smiles)
    conformer = conformer_pool(molecule, 5).positions[0]
    name, genarris_s, genarris_volume = GENARRIS[smiles]
    # The press imports and warms up here, not in the times.
    fit = calibrated(molecule.numbers_h, conformer, PressParams())
    tight = PressParams(
        wanted_contact=0.855, wanted_hydrogen_bond=0.855, pressures=(0.05, 0.01, 0.002, 0.0002)
    )
    symmetry = symmetries(molecule, conformer)
    begun = time.process_time()
    tries = [pack(molecule.numbers_h, conformer, z, 0, k, PackParams(), symmetry) for k in range(n)]
    packings = [found.packing for found in tries if found.packing is not None]
    packing_s = (time.process_time() - begun) / n
    volume = float(np.mean([p.volume_per_molecule for p in packings])) * z
    rows = [("random", packing_s, len(packings) / n, volume)]
    for label, params in ((f"press {fit.wanted_contact:.3f}", fit), ("press 0.855", tight)):
        begun = time.process_time()
        crystals = [done.crystal for done in press(packings, params) if done.crystal is not None]
        seconds = packing_s + (time.process_time() - begun) / n
        mean = float(np.mean([crystal.volume for crystal in crystals]))
        rows.append((f"random + {label}", seconds, len(crystals) / n, mean))
    rows.append(("Genarris Rigid Press (recorded)", genarris_s, 1.0, genarris_volume))
    other = pyxtal(smiles, conformer, z)
    if other is not None:
        rows.append(other)
    print(f"\n{name}, Z = {z}, {n} candidates; expected volume "
          f"{z * expected_volume(molecule.numbers_h):.0f} Å3")  # fmt: skip
    print(f"{'':34}{'CPU s / valid':>14}{'valid':>8}{'mean Å3':>9}{'valid / CPU s':>15}")
    for label, seconds, valid, mean in rows:
        per = seconds / max(valid, 1e-9)
        print(f"{label:34}{per:14.4f}{valid:8.2f}{mean:9.0f}{1 / per:15.1f}")
    print(f"random + press 0.855 is {genarris_s / (rows[2][1] / rows[2][2]):.0f} times as fast as "
          "the recorded Rigid Press")  # fmt: skip
    if other is not None:
        print(f"random is {other[1] / packing_s:.0f} times as fast as PyXtal")


def pyxtal(smiles: str, conformer: np.ndarray, z: int) -> tuple[str, float, float, float] | None:
    """The same for PyXtal in P2_1/c, or None where it is not installed."""
    try:
        from pymatgen.core import Molecule as Cluster
        from pyxtal import pyxtal as builder
        from pyxtal.tolerance import Tol_matrix
    except ImportError:
        return None
    molecule = Molecule.from_smiles(smiles)
    cluster = Cluster([int(number) for number in molecule.numbers_h], conformer)
    contacts = Tol_matrix(prototype="vdW", factor=0.85)
    volumes, count = [], 10
    begun = time.process_time()
    for k in range(count):
        crystal = builder(molecular=True)
        try:
            crystal.from_random(
                3, 14, [cluster], [z], PYXTAL_FACTOR[smiles], tm=contacts, random_state=k
            )
        except RuntimeError:
            continue
        volumes.append(crystal.lattice.volume)
    seconds = (time.process_time() - begun) / count
    return "PyXtal, loose", seconds, len(volumes) / count, float(np.mean(volumes or [np.nan]))


def densities(forms: Path, n: int, z: int, every: int) -> None:
    """Print densities after the press over those of the known forms."""
    table = pd.read_csv(forms / "manifest.csv")
    table = table[table.homomolecular.astype(bool)]
    medians, best, estimates, seconds, failed = [], [], [], 0.0, 0
    for _, known in list(table.groupby("mol_hash"))[::every]:
        density = float(known.density.mean())
        try:
            molecule = Molecule.from_smiles(str(known.smiles.iloc[0]))
            conformer = conformer_pool(molecule, 5).positions[0]
        except PackflowError as error:
            print(f"skipped: {error}")
            continue
        begun = time.process_time()
        params = calibrated(molecule.numbers_h, conformer, PressParams())
        tries = [pack(molecule.numbers_h, conformer, z, 1, k, PackParams()) for k in range(n)]
        packings = [found.packing for found in tries if found.packing is not None]
        crystals = [done.crystal for done in press(packings, params) if done.crystal is not None]
        seconds += time.process_time() - begun
        failed += n - len(crystals)
        one = molecule.mass * AMU_PER_A3_TO_G_CM3
        ratio = [one / (crystal.volume / crystal.z) / density for crystal in crystals]
        medians.append(float(np.median(ratio)))
        best.append(float(np.max(ratio)))
        estimates.append(one / expected_volume(molecule.numbers_h) / density)
        print(
            f"{molecule.smiles[:44]:46}{density:7.3f}  f {params.wanted_contact:.3f}"
            f"  median {medians[-1]:.3f}  densest {best[-1]:.3f}",
            flush=True,
        )
    middle = np.array(medians)
    print(f"\n{len(middle)} molecules, {n} candidates each, {failed} failed, {seconds:.0f} CPU s")
    print(f"median of the medians {np.median(middle):.3f}, mean |ratio - 1| "
          f"{np.abs(middle - 1).mean():.3f}, within 10 %: {(np.abs(middle - 1) < 0.1).mean():.2f}, "
          f"within 15 %: {(np.abs(middle - 1) < 0.15).mean():.2f}")  # fmt: skip
    reached = [(low <= 1.1) & (high >= 0.9) for low, high in zip(medians, best, strict=True)]
    print(f"molecules with a candidate within 10 %: {np.mean(reached):.2f}")


if __name__ == "__main__":
    main()
