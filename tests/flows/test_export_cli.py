"""`csp export` and `csp pxrd` on a ranked run, new and of an earlier version."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from packflow_core.analysis.pxrd_patterns import PxrdParams, find_reflections, profile
from packflow_core.crystal.cif import read_cif
from packflow_core.spec import make_spec
from packflow_core.stages.run_store import OpenRun, plan_for
from packflow_core.store.rows import crystal_columns

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def csp(call_csp):
    return call_csp


def test_an_export_never_replaces_the_table_of_a_run(csp, ranked):
    before = (ranked / "ranked.parquet").read_bytes()
    code, _, err = csp("export", ranked, "--to", ranked)
    assert code == 2
    assert "is a run folder" in err
    assert (ranked / "ranked.parquet").read_bytes() == before
    assert not (ranked / "export.json").exists()


@pytest.fixture
def ranked(tmp_path, stub_generator):
    """A run of urea with a table as version 0.1 wrote it, without the columns that came later."""
    folder = tmp_path / "run"
    spec = make_spec({"smiles": "NC(N)=O", "name": "urea", "z": [2], "n": 4})
    with OpenRun(folder, plan_for(spec, folder), command=["csp"]) as run:
        run.end_session("finished")
    urea = read_cif(DATA / "urea.cif")
    rows = []
    for k, scale in enumerate([0.99, 1.04, 1.08, 1.12]):
        moved = urea.positions.reshape(urea.z, -1, 3)
        centroids = moved.mean(axis=1, keepdims=True)
        positions = (moved + (scale - 1) * centroids).reshape(-1, 3)
        crystal = urea.with_positions(positions, urea.cell * scale)
        rows.append(
            {
                "candidate_id": f"urea-z2-{k:06d}", "index": k, "status": "ok", "reason": "",
                "detail": "", "rank": k + 1, "lattice_energy_rel_kJ_mol": 4.0 * k,
                "energy_eV": -50.0 + k, "space_group": "P-42_1m", "space_group_number": 113,
                "z_prime": 0.25, "cluster": k + 1, "cluster_size": 1, "representative": k != 1,
                "engine": "fake 1", **crystal_columns(crystal),
            }
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "ranked.parquet")
    return folder


def test_structures_in_every_format(csp, ranked, tmp_path):
    code, out, _ = csp("export", ranked, "--window", "8", "--format", "all", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["structures"] == 2  # one of the three is a duplicate
    assert document["formats"] == ["cif", "symmetrised-cif", "extxyz", "ase", "mercury"]
    assert all(Path(file).is_file() for file in document["files"])
    back = read_cif(ranked / "export" / "symmetrised" / "001_urea-z2-000000.cif")
    assert back.z == 2
    code, out, _ = csp("export", ranked, "--top", "1", "--to", tmp_path / "one")
    assert code == 0
    assert "1 structure (cif) and ranked.csv" in out
    assert len(list((tmp_path / "one").glob("*.cif"))) == 1
    code, _, err = csp("export", ranked, "--format", "cif,docx")
    assert code == 2
    assert "'docx' is no format; formats are cif, symmetrised-cif" in err


def test_patterns_with_and_without_a_measured_one(csp, ranked, tmp_path):
    coarse = ("--set", "step_deg=0.05")
    code, out, _ = csp("pxrd", ranked, *coarse)
    assert code == 0
    assert "Patterns of 3 structures" in out
    table = pq.read_table(ranked / "pxrd" / "pxrd.parquet")
    assert table.column("similarity").null_count == 3
    assert table.schema.field("reflection_d_A").metadata[b"unit"] == "Å".encode()
    # The known crystal stands for the measured one: the nearest in size fits best.
    params = PxrdParams()
    values = profile(find_reflections(read_cif(DATA / "urea.cif"), params), params)
    pattern = tmp_path / "measured.xy"
    np.savetxt(pattern, np.stack([params.grid(), 50 * values + 20], axis=1), header="2theta I")
    compared = ("pxrd", ranked, "--pattern", pattern, "--to", tmp_path / "px", *coarse)
    code, out, _ = csp(*compared, "--json")
    assert code == 0
    best = json.loads(out)["structures"][0]
    assert (best["rank"], best["pattern_rank"]) == (1, 1)
    assert best["volume_factor"] == pytest.approx(0.99**-3, abs=0.01)
    assert best["similarity_scaled"] > 0.97
    with (tmp_path / "px" / "pxrd.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["pattern_rank"] for line in lines] == ["1", "2", "3"]
    assert float(lines[0]["similarity_scaled"]) >= float(lines[1]["similarity_scaled"])
    assert "(100)" in lines[0]["strongest_reflections_deg"]
    for name in ("pxrd.png", "pxrd.svg"):
        assert (tmp_path / "px" / name).stat().st_size > 5000
    written = [(tmp_path / "px" / name).read_bytes() for name in ("pxrd.svg", "pxrd.csv")]
    assert csp(*compared, "--quiet")[0] == 0
    assert [(tmp_path / "px" / n).read_bytes() for n in ("pxrd.svg", "pxrd.csv")] == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pattern", "/no.xy"], "cannot be read"),
        (["--pattern", DATA / "urea.cif"], "has no line of two numbers"),
        (["--set", "colour=red"], "'colour' is no setting of the patterns"),
        (["--set", "wavelength_A=-1"], "--set wavelength_A"),
        (["--set", "low_deg=49"], "at least 5 degrees above"),
        (["--to", "/proc/x"], "cannot be written"),
    ],
)
def test_mistakes_are_one_sentence(csp, ranked, arguments, words):
    code, out, err = csp("pxrd", ranked, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (ranked / "pxrd").exists()


def test_nothing_ranked_is_said(csp, ranked):
    (ranked / "ranked.parquet").unlink()
    for command in ("export", "pxrd"):
        code, _, err = csp(command, ranked)
        assert code == 2
        assert f"finish it with 'csp resume {ranked}'" in err
