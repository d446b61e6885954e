"""Do two computed structures of one polymorph match, and different polymorphs not?

    python benchmarks/twin_test.py --forms DIR
    python benchmarks/twin_test.py --forms DIR --table crystals.parquet     # and flagged crystals

DIR holds CIFs and a manifest.csv with the columns name, file, mol_hash and notes. A name is a
refcode and how the structure was computed: REFCODE_csp was found by a search, REFCODE_minexp was
relaxed from experiment, often with another model of the energy, so densities differ by up to 8 %.
The two of one refcode are twins: the same polymorph. Other pairs of one molecule are the same
polymorph when they are of one refcode family and their notes name the same form, as "(Form II)".
All the rest count as different. What comes out otherwise than it should is listed with the notes.

The table has the columns of docs/training.md, with the origin of each crystal: those flagged
csp_matches_experiment have to match a form of DIR of the same molecule that the column exp_info
names.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from packflow_core.analysis.matching import CRITERIA, MatchReport, Reference, match_report
from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal, right_handed
from packflow_core.errors import UserInputError

#: Criteria besides those of the package, for comparison.
OTHERS = {
    "rmsd15 <= 0.30": lambda r: r.first.full and r.first.rmsd <= 0.30,
    "rmsd15 <= 0.50": lambda r: r.first.full and r.first.rmsd <= 0.50,
    "pdd <= 0.20": lambda r: r.pdd_A is not None and r.pdd_A <= 0.20,
    "pdd <= 0.30": lambda r: r.pdd_A is not None and r.pdd_A <= 0.30,
    "StructureMatcher": lambda r: r.structure_matcher_A is not None,
    "form, any RMSD": lambda r: r.form is not None and r.form.n_matched == r.form.n_total,
}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--forms", type=Path, required=True, help="folder with a manifest.csv")
    parser.add_argument("--table", type=Path, help="table of crystals")
    parser.add_argument("--limit", type=int, default=200, help="flagged crystals that are tried")
    args = parser.parse_args()
    manifest = pd.read_csv(args.forms / "manifest.csv")
    forms: dict[str, dict[str, Reference]] = defaultdict(dict)
    for row in manifest.itertuples():
        try:
            forms[row.mol_hash][row.name] = Reference(read_cif(args.forms / row.file))
        except UserInputError as error:
            print(f"left out: {error}")
    twins(forms, dict(zip(manifest.name, manifest.notes.fillna(""), strict=True)))
    if args.table:
        flagged(args.table, forms, args.limit)


def twins(forms: dict[str, dict[str, Reference]], notes: dict[str, str]) -> None:
    """Print the confusion table of all pairs of structures of one molecule."""
    pairs: list[tuple[str, str, MatchReport]] = []
    for known in forms.values():
        for a, b in itertools.combinations(sorted(known), 2):
            pairs.append((a, b, match_report(known[a].crystal, known[b], thorough=True)))
    twin = np.array([a.rsplit("_", 1)[0] == b.rsplit("_", 1)[0] for a, b, _ in pairs])
    # A refcode family is its first six letters; isomers without stereochemistry share a mol_hash.
    named = ~twin & np.array(
        [a[:6] == b[:6] and form_of(notes[a]) == form_of(notes[b]) != "" for a, b, _ in pairs]
    )
    other = ~twin & ~named
    print(f"{len(pairs)} pairs: {twin.sum()} twins, {named.sum()} more of one form by their notes, "
          f"{other.sum()} others\n")  # fmt: skip
    print(f"{'':18}{'twins':>14}{'one form':>14}{'others':>14}")
    print(f"{'criterion':18}" + 3 * f"{'met':>7}{'not':>7}")
    tests = {**{name: met for name, (_, met) in CRITERIA.items()}, **OTHERS}
    for name, met in tests.items():
        said = np.array([met(report) for _, _, report in pairs])
        counts = [(said & kind).sum() if yes else (~said & kind).sum()
                  for kind in (twin, named, other) for yes in (True, False)]  # fmt: skip
        print(f"{name:18}" + "".join(f"{count:7d}" for count in counts))
    print("\ntwins that are not the same form, and others that are or whose 15 molecules match:")
    header = f"{'RMSD15':>7}{'RMSD20':>7}{'RMSD30':>7}{'PDD':>6}{'form':>6}"
    print(f"{'':18}{'':18}{header}  notes")
    for (a, b, r), same in zip(pairs, twin, strict=True):
        form = "form" in r.criteria
        if (same and form) or (not same and not form and not r.first.full):
            continue
        cells = "".join(
            f"{m.rmsd:7.2f}" if m.full and m.rmsd is not None else f"{m.n_matched:>4}/{n}"
            for n, m in r.shells.items()
        )
        pdd = f"{r.pdd_A:6.2f}" if r.pdd_A is not None else f"{'':6}"
        print(f"{a:18}{b:18}{cells}{pdd}{'yes' if form else 'no':>6}  {notes[a]} | {notes[b]}")


def form_of(note: str) -> str:
    """Name of a form in the first parentheses of a note; empty where there is none."""
    found = re.search(r"\(([^()]*form[^()]*)\)", note.lower())
    return re.sub(r"\s+", " ", found[1]).strip() if found else ""


def flagged(path: Path, forms: dict[str, dict[str, Reference]], limit: int) -> None:
    """Print how many crystals that match experiment are found to match the form they are said to.

    A crystal is not tried against the structure of the same name, which may be itself.
    """
    columns = ["mol_hash", "origin", "exp_info", "cell", "numbers", "frac", "n_mol"]
    table = pq.read_table(
        path, columns=columns, filters=[("origin", "=", "csp_matches_experiment")]
    ).to_pylist()
    tried = found = own = 0
    for row in table:
        refcode = re.match(r"[A-Z]{6}\d{0,2}", str(row["exp_info"] or ""))
        known = forms.get(row["mol_hash"], {})
        if refcode is None or tried >= limit:
            continue
        targets = [r for name, r in known.items() if name == f"{refcode[0]}_minexp"]
        if not targets:
            continue
        cell = np.array(row["cell"], dtype=np.float64).reshape(3, 3)
        positions = np.array(row["frac"], dtype=np.float64).reshape(-1, 3) @ cell
        crystal = Crystal(np.array(row["numbers"]), positions, right_handed(cell), row["n_mol"])
        report = match_report(crystal, targets[0])
        tried += 1
        found += report.first.full
        own += "form" in report.criteria
        if not report.first.full:
            print(
                f"  not found: {row['exp_info']}: {report.first.n_matched} of 15, RMSD1 "
                f"{report.rmsd1:.2f} Å, density {report.density_percent:+.1f} %"
            )
    print(f"\nflagged crystals against the relaxed experiment: {tried} tried, "
          f"{found} match (15 of 15), {own} the same form")  # fmt: skip


if __name__ == "__main__":
    main()
