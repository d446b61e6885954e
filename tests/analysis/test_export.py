"""CSV, CIF files and the terminal table."""

import csv
from pathlib import Path

import numpy as np
from rich.console import Console

from packflow_core.analysis.export import (
    csv_columns,
    ranked_table,
    write_ranked_csv,
    write_structures,
)
from packflow_core.crystal.cif import read_cif
from packflow_core.store.rows import crystal_columns
from packflow_core.store.schema import STAGE_COLUMNS


def row(k, crystal, **more):
    return {
        "rank": k, "candidate_id": f"demo/[b]z2-{k:05d}",
        "lattice_energy_rel_kJ_mol": 1.23456 * (k - 1),
        "space_group": "P2_1/c", "space_group_number": 14, "z_prime": 0.5, "cluster": k,
        "cluster_size": 2, "representative": k != 2, "match_rmsd_A": None, "match_n": None,
        "matches_reference": None, "energy_eV": -1234.5678912, "status": "ok", "reason": "",
        "detail": 'a "quoted", detail', "engine": "fake", **crystal_columns(crystal), **more,
    }  # fmt: skip


def test_csv_is_rounded_and_complete(tmp_path, triclinic):
    unranked = row(3, triclinic)
    unranked |= {"rank": None, "lattice_energy_rel_kJ_mol": None, "status": "rejected"}
    rows = [row(1, triclinic), row(2, triclinic), unranked]
    with write_ranked_csv(rows, tmp_path / "ranked.csv").open(encoding="utf-8") as handle:
        back = list(csv.DictReader(handle))
    assert len(back) == 3
    assert back[1]["lattice_energy_rel_kJ_mol"] == "1.235"
    assert back[0]["density_g_cm3"] == f"{triclinic.density:.4f}"
    assert back[0]["representative"] == "true"
    assert back[0]["detail"] == 'a "quoted", detail'
    assert (back[2]["rank"], back[2]["status"]) == ("", "rejected")


def test_structures_read_back_as_the_same_crystals(tmp_path, triclinic, monoclinic):
    rows = [row(1, triclinic), row(2, triclinic), row(3, monoclinic), row(4, triclinic)]
    folder = tmp_path / "structures"
    paths = write_structures(rows, folder, top=2)
    assert [p.name for p in paths] == ["001_demo__b_z2-00001.cif", "003_demo__b_z2-00003.cif"]
    back = read_cif(paths[1], keep_order=True)
    assert np.isclose(back.volume, monoclinic.volume)
    assert np.allclose(np.sort(back.fractional % 1, 0), np.sort(monoclinic.fractional % 1, 0))
    assert "rank: 3" in paths[1].read_text()


def test_a_new_export_replaces_the_old_one(tmp_path, triclinic):
    write_structures([row(k, triclinic) for k in (1, 3, 4)], tmp_path)
    (tmp_path / "mine.cif").write_text("kept")
    write_structures([row(1, triclinic)], tmp_path, representatives_only=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["001_demo__b_z2-00001.cif", "mine.cif"]


def rendered(table, width=100):
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_terminal_table_fits_and_shows_markup_as_text(triclinic):
    found = {"matches_reference": True, "match_rmsd_A": 0.2134, "match_n": 15}
    missed = {"matches_reference": False, "match_rmsd_A": 0.4, "match_n": 11}
    rows = [row(k, triclinic, **(found if k == 3 else missed)) for k in range(1, 30)]
    for k in rows:
        k["candidate_id"] = "[red]" + "x" * 60
    text = rendered(ranked_table(rows, top=5, title="[bold]target"))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "[red]" in text
    assert "[bold]target" in text
    assert "yes 0.21" in text
    assert "11 mol." in text
    assert "23 more distinct structures; 1 duplicate not listed" in text


def test_unsure_space_groups_are_marked(triclinic):
    rows = [row(1, triclinic, space_group_agreement=1.0), row(3, triclinic)]
    assert "~" not in rendered(ranked_table(rows))
    rows.append(row(4, triclinic, space_group_agreement=0.5))
    text = rendered(ranked_table(rows))
    assert "P2_1/c ~" in text
    assert "~ the space group depends on the tolerance" in text


def test_every_scalar_of_the_rank_stage_is_in_the_table():
    names = csv_columns()
    assert list(names)[:2] == ["rank", "candidate_id"]
    lists = {"conformers", "amd_A"}
    assert {field.name for field in STAGE_COLUMNS["rank"]} - lists <= set(names)
    assert not lists & set(names)


def test_the_documentation_explains_every_column():
    text = (Path(__file__).parents[2] / "docs" / "ranking.md").read_text(encoding="utf-8")
    assert [name for name in csv_columns() if f"| `{name}` |" not in text] == []


def test_table_without_reference_and_without_candidates(triclinic):
    assert "match" not in rendered(ranked_table([row(1, triclinic)]))
    assert "no candidate could be ranked" in rendered(ranked_table([]))
