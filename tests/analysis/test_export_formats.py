"""The export formats read back as the structures they were made of."""

import json

import numpy as np
import pytest
from ase.db import connect
from ase.io import read

from packflow_core.analysis.export_formats import (
    FORMATS,
    parse_formats,
    select_structures,
    write_export,
)
from packflow_core.crystal.cif import read_cif
from packflow_core.errors import UserInputError
from packflow_core.store.rows import crystal_columns, crystal_of


def row(k, crystal, **more):
    return {
        "rank": k, "candidate_id": f"demo/z2-{k:05d}", "lattice_energy_rel_kJ_mol": 2.5 * (k - 1),
        "space_group": "P-1", "space_group_number": 2, "z_prime": 1.0, "cluster": k,
        "cluster_size": 2, "representative": k != 2, "match_rmsd_A": None,
        "matches_reference": False, "energy_eV": -1234.5678912 + k, "status": "ok", "reason": "",
        "detail": "", "engine": "fake 1", **crystal_columns(crystal), **more,
    }  # fmt: skip


def test_top_window_and_duplicates(triclinic):
    rows = [row(k, triclinic) for k in (5, 3, 1, 2, 4)] + [row(6, triclinic, rank=None)]

    def ranks(**choice):
        return [r["rank"] for r in select_structures(rows, **choice)]

    assert ranks() == [1, 3, 4, 5]
    assert ranks(duplicates=True) == [1, 2, 3, 4, 5]
    assert ranks(top=2) == [1, 3]
    assert ranks(window_kJ_mol=7.5) == [1, 3, 4]
    assert ranks(top=2, window_kJ_mol=7.5, duplicates=True) == [1, 2]
    assert ranks(window_kJ_mol=0.0) == [1]


def test_lists_of_formats():
    assert parse_formats(["cif,extxyz", "cif"]) == ("cif", "extxyz")
    assert parse_formats(["All"]) == tuple(FORMATS)
    with pytest.raises(UserInputError, match=r"'pdb' is no format; formats are cif, .*mercury"):
        parse_formats(["cif,pdb"])
    with pytest.raises(UserInputError, match="No format"):
        parse_formats([","])


def test_every_format_holds_the_structures(tmp_path, triclinic, monoclinic):
    rows = [row(1, triclinic), row(3, monoclinic, z_prime=None, matches_reference=True)]
    done = write_export(rows, tmp_path, tuple(FORMATS))
    assert done.structures == 2
    assert done.without_symmetry == ()
    assert all(path.is_file() for path in done.files)
    listed = json.loads((tmp_path / "export.json").read_text())["files"]
    present = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert present == {*listed, "export.json"}
    # extxyz and the database: positions, cell, energy, facts.
    frames = read(tmp_path / "structures.extxyz", index=":")
    with connect(tmp_path / "structures.db") as database:
        entries = list(database.select())
    for r, frame, entry in zip(rows, frames, entries, strict=True):
        crystal = crystal_of(r)
        for atoms in (frame, entry.toatoms()):
            assert atoms.numbers.tolist() == crystal.numbers.tolist()
            assert np.abs(atoms.positions - crystal.positions).max() < 1e-7
            assert np.abs(atoms.cell - crystal.cell).max() < 1e-7
            assert atoms.get_potential_energy() == pytest.approx(r["energy_eV"], abs=1e-6)
        assert frame.info["candidate_id"] == r["candidate_id"]
        assert frame.info["lattice_energy_rel_kJ_mol"] == r["lattice_energy_rel_kJ_mol"]
        assert (entry.rank, entry.candidate_id) == (r["rank"], r["candidate_id"])
        assert entry.data["density_g_cm3"] == pytest.approx(crystal.density)
    assert database.count(matches_reference=True) == 1


def test_the_multi_structure_file_has_a_block_a_structure(tmp_path, triclinic, monoclinic):
    import gemmi

    rows = [row(1, triclinic), row(3, monoclinic)]
    write_export(rows, tmp_path, ("mercury", "symmetrised-cif"))
    document = gemmi.cif.read(str(tmp_path / "mercury.cif"))
    assert [block.name for block in document] == ["001_demo_z2-00001", "003_demo_z2-00003"]
    for block, r in zip(document, rows, strict=True):
        small = gemmi.make_small_structure_from_block(block)
        crystal = crystal_of(r)
        assert len(small.get_all_unit_cell_sites()) == len(crystal)
        assert small.cell.volume == pytest.approx(crystal.volume, rel=1e-6)
    names = sorted(p.name for p in (tmp_path / "symmetrised").iterdir())
    assert names == ["001_demo_z2-00001.cif", "003_demo_z2-00003.cif"]
    text = (tmp_path / "symmetrised" / names[1]).read_text()
    assert "_space_group_name_H-M_alt 'P 1 21/c 1'" in text
    assert "# Z': 1" in text


def test_an_export_replaces_the_earlier_one_and_nothing_else(tmp_path, triclinic):
    rows = [row(k, triclinic) for k in (1, 3)]
    write_export(rows, tmp_path, tuple(FORMATS))
    (tmp_path / "mine.extxyz").write_text("kept")
    (tmp_path / "symmetrised" / "mine.cif").write_text("kept")
    write_export(rows[:1], tmp_path, ("extxyz",))
    present = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert present == {
        "export.json", "ranked.csv", "structures.extxyz", "mine.extxyz", "symmetrised/mine.cif",
    }  # fmt: skip
    # A list that was tampered with reaches nothing outside.
    outside = tmp_path.parent / "outside.txt"
    outside.write_text("kept")
    (tmp_path / "export.json").write_text(json.dumps({"files": ["../outside.txt", str(outside)]}))
    write_export(rows, tmp_path)
    assert outside.is_file()


def test_a_structure_without_symmetry_is_written_in_p1_and_named(tmp_path, triclinic, monkeypatch):
    monkeypatch.setattr("packflow_core.analysis.export_formats.symmetrise", lambda *_: None)
    done = write_export([row(1, triclinic)], tmp_path, ("symmetrised-cif",))
    assert done.without_symmetry == ("demo/z2-00001",)
    back = read_cif(done.files[0], keep_order=True)
    assert len(back) == len(triclinic)
