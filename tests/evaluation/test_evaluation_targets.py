"""Targets of tables and folders: which forms, which Z, and what is refused in words."""

import pandas as pd
import pytest

from packflow_core.crystal.cif import write_cif
from packflow_core.errors import UserInputError
from packflow_core.evaluation.settings import make_settings
from packflow_core.evaluation.targets import read_targets


def read(*paths, **values):
    return read_targets(make_settings({"targets": paths, **values}))


def test_a_folder_of_cifs(folder):
    found = read(folder)
    assert [(t.name, t.smiles, t.z) for t in found.targets] == [
        ("BENZENE", "c1ccccc1", (4,)), ("UREA", "NC(N)=O", (2,)),
    ]  # fmt: skip
    urea = found.targets[1].forms[0]
    assert (urea.label, urea.crystal.z, len(urea.crystal)) == ("UREA01", 2, 8)
    assert found.refused == []


def test_tables_keep_known_forms_only_and_each_crystal_once(tables):
    """A predicted minimum is no known form, and a doubled cell is no second one."""
    found = read(tables, split="test")
    assert [(t.name, t.z) for t in found.targets] == [("Urea", (2,))]
    assert [f.label for f in found.targets[0].forms] == ["db/urea", "UREAXX02 (Form I)"]
    assert {r.name: r.reason for r in found.refused} == {
        name: "the table holds no known form of it" for name in ("Benzene", "Ethane")
    }
    assert [t.name for t in read(tables, split="train").targets] == ["Benzene"]
    assert [t.name for t in read(tables).targets] == ["Benzene", "Urea"]
    predicted = read(tables, split="test", origins=("csp",))
    assert [t.forms[0].label for t in predicted.targets] == ["db/predicted"]


def test_sources_come_together_by_molecule(tables, folder):
    found = read(tables, folder)
    urea = found.targets[1]
    # The CIF is the crystal of the table, but for single precision.
    assert [f.label for f in urea.forms] == ["db/urea", "UREAXX02 (Form I)"]
    by_form = read(tables, folder, each_form=True)
    assert [t.name for t in by_form.targets] == [
        "Benzene_db-train", "Urea_db-urea", "Urea_UREAXX02-Form-I",
    ]  # fmt: skip
    assert {t.molecule_name for t in by_form.targets} == {"Benzene", "Urea"}
    assert all(len(t.forms) == 1 for t in by_form.targets)


def test_forms_with_long_names_stay_apart(folder, crystals):
    rows = []
    for number, factor in enumerate((1.0, 1.05, 1.1)):
        crystal = crystals["urea"]
        other = crystal.with_positions(factor * crystal.positions, factor * crystal.cell)
        write_cif(other, folder / f"{number}.cif")
        label = "A very long name of a form " * 4 + str(number)
        rows.append({"file": f"{number}.cif", "smiles": "NC(N)=O", "name": label})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    names = [target.name for target in read(folder, each_form=True).targets]
    assert len(set(names)) == 3
    assert max(map(len, names)) <= 64


def test_z_is_that_of_the_primitive_cell(folder, crystals):
    """Doubling the cell must not make generators propose twice the molecules."""
    write_cif(crystals["urea"].repeated((2, 1, 1)), folder / "urea.cif")
    targets = {t.name: t for t in read(folder).targets}
    assert targets["UREA"].z == (2,)
    assert targets["UREA"].forms[0].crystal.z == 4
    assert read(folder, z=(8, 2, 8)).targets[0].z == (2, 8)


def test_a_subset_of_molecules_is_spread(folder, crystals):
    rows = []
    for name in ("AA", "BB", "CC", "DD", "EE"):
        smiles = {"AA": "NC(N)=O", "EE": "c1ccccc1"}.get(name, "C" * ord(name[0]))
        file = "urea.cif" if name != "EE" else "benzene.cif"
        rows.append({"file": file, "smiles": smiles, "csd_refcode": name})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    found = read(folder, molecules=2)
    assert [t.name for t in found.targets] == ["AA", "EE"]


def test_bad_forms_are_refused_one_by_one(folder):
    rows = pd.read_csv(folder / "manifest.csv").to_dict("records")
    (folder / "broken.cif").write_text("data_x\nno atoms here\n")
    rows += [
        {"file": "broken.cif", "smiles": "CC", "csd_refcode": "BROKEN"},
        {"file": "gone.cif", "smiles": "CC", "csd_refcode": "GONE"},
        {"file": "urea.cif", "smiles": "CC", "csd_refcode": "WRONG"},
        {"file": "urea.cif", "smiles": "C(((", "csd_refcode": "SYNTAX"},
        {"file": "urea.cif", "smiles": "[Na+].[Cl-]", "csd_refcode": "SALT"},
    ]
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    found = read(folder)
    assert [t.name for t in found.targets] == ["BENZENE", "UREA"]
    reasons = {r.name: r.reason for r in found.refused}
    assert set(reasons) == {"BROKEN", "GONE", "WRONG", "SYNTAX", "SALT"}
    assert "does not exist" in reasons["GONE"]
    assert reasons["WRONG"] == "its heavy atoms are not those of CC"
    assert "not a valid SMILES" in reasons["SYNTAX"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.csv").unlink(), "manifest.csv cannot be read"),
        (lambda f: (f / "manifest.csv").write_text("file,name\na,b\n"), "columns file and smiles"),
        (lambda f: (f / "manifest.csv").write_text("file,smiles\nurea.cif,CC\n"), "no target with"),
    ],
)
def test_a_folder_that_cannot_serve_gets_one_sentence(folder, damage, message):
    damage(folder)
    with pytest.raises(UserInputError, match=message):
        read(folder)


def test_tables_that_cannot_serve_get_one_sentence(tables, tmp_path):
    with pytest.raises(UserInputError, match="no targets at"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserInputError, match="no target with a known form"):
        read(tables, split="valid")
    pd.read_parquet(tables).drop(columns="frac").to_parquet(tables)
    with pytest.raises(UserInputError, match="lacks the column frac"):
        read(tables)
    (tables.with_name("molecules.parquet")).unlink()
    with pytest.raises(UserInputError, match=r"has no molecules\.parquet beside it"):
        read(tables)
    tables.write_bytes(b"not parquet")
    tables.with_name("molecules.parquet").write_bytes(b"neither")
    with pytest.raises(UserInputError, match="cannot be read as a Parquet table"):
        read(tables)


def test_a_row_that_is_no_crystal_is_refused(tables):
    table = pd.read_parquet(tables)
    table.at[0, "frac"] = table.at[0, "frac"][:-3]
    table.at[2, "mol_hash"] = "unknown"
    table.to_parquet(tables)
    found = read(tables, split="test")
    assert [f.label for f in found.targets[0].forms] == ["db/double"]
    assert found.targets[0].z == (2,)
    reasons = {r.name: r.reason for r in found.refused}
    assert "it is no crystal" in reasons["db/urea"]
    assert reasons["UREAXX02 (Form I)"] == "molecules.parquet has no molecule unknown"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "--n 0 is not allowed"),
        ({"z": (0,)}, "whole numbers from 1 to 16"),
        ({"seeds": (-1,)}, "--seed "),
        ({"near_A": 0}, "--near 0"),
        ({"variants": ("drawn",)}, "--variant"),
        ({"spec": {"engine": "gfnff"}}, "--set .* engine is none of conformers"),
        ({"confidence": 1.0}, "--confidence"),
    ],
)
def test_settings_say_what_is_wrong(folder, values, message):
    with pytest.raises(UserInputError, match=message):
        make_settings({"targets": (folder,), **values})


def test_variants_keep_the_order_of_a_run(folder):
    settings = make_settings({"targets": (folder,), "variants": ("repaired", "raw", "raw")})
    assert settings.variants == ("raw", "repaired")
