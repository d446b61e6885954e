"""A page with the first proposals of a molecule, raw and pressed: to be looked at, not chosen from.

    python benchmarks/proposal_pictures.py SMILES --z 4 --n 10 --out proposals.html

Each pair is one candidate, the network's heavy atoms above, what is relaxed below; both along the
shortest axis of their own cell.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packflow_core.analysis.pictures import packing_svg
from packflow_core.chem.molecule import Molecule
from packflow_core.stages.generate import generate
from packflow_core.stages.generate_params import GenerateParams
from packflow_core.stages.hydrogenate import HydrogenateParams, hydrogenate_many
from packflow_core.store.rows import crystal_of

_STYLE = """body{font:13px sans-serif;margin:8px;background:#fff;color:#222}
main{display:grid;grid-template-columns:repeat(5,1fr);gap:8px}
svg{display:block;margin:auto;height:190px;max-width:100%}
figure{margin:0;border:1px solid #ddd;padding:4px;text-align:center}"""


def main() -> None:
    """Draw the proposals and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("smiles")
    parser.add_argument("--z", type=int, default=4)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generator", default="packflow-open")
    parser.add_argument("--out", type=Path, default=Path("proposals.html"))
    given = parser.parse_args()
    molecule = Molecule.from_smiles(given.smiles)
    raw = generate(
        range(given.n), smiles=molecule.smiles, z_values=(given.z,), seed=given.seed,
        target="x", generator=given.generator, params=GenerateParams(),
    )  # fmt: skip
    raw = [{**row, "method": "packflow"} for row in raw]
    pressed = hydrogenate_many(raw, molecule, HydrogenateParams())
    figures = []
    for before, after in zip(raw, pressed, strict=True):
        pictures = [
            packing_svg(crystal_of(row), width=230) if row["status"] == "ok" else row["detail"]
            for row in (before, after)
        ]
        caption = (
            f"{before['index']}: space group {before['space_group_drawn']}, "
            f"{before['density_g_cm3']:.2f} to {after['density_g_cm3']:.2f} g/cm³"
        )
        figures.append(f"<figure>{''.join(pictures)}<figcaption>{caption}</figcaption></figure>")
    page = f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style><main>{''.join(figures)}"
    given.out.write_text(page, encoding="utf-8")
    print(given.out)


if __name__ == "__main__":
    main()
