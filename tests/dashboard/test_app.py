"""The frame: downloads, what is refused, headers, pages as data, one candidate's story."""

import hashlib
import json
import re
from pathlib import Path

import plotly
import pytest
from synthetic_campaign import rewrite, write_campaign

from dashboard.app import PAGES, make_app
from dashboard.candidate import facts, read_candidate, traces
from dashboard.pages import campaigns, failures
from dashboard.settings import Settings
from packflow_core.crystal.cif import read_cif
from packflow_core.store.rows import crystal_of

EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def client(small):
    return make_app(Settings((small,))).server.test_client()


@pytest.fixture
def view(small, open_store):
    return open_store(small).runs()[0]


def test_a_cif_is_the_crystal_of_the_row(client, view, tmp_path):
    answer = client.get(f"/cif/{view.id}/relax/5.cif")
    assert answer.status_code == 200
    assert (
        answer.headers["Content-Disposition"] == 'attachment; filename="urea-z2-000005_relax.cif"'
    )
    path = tmp_path / "five.cif"
    path.write_bytes(answer.data)
    (row,) = view.store.stage("relax").rows([5])
    assert read_cif(path, keep_order=True).volume == pytest.approx(crystal_of(row).volume)


@pytest.mark.parametrize(
    "address",
    [
        "/cif/ID/relax/99999.cif", "/cif/ID/nothing/5.cif", "/cif/000000000000/relax/5.cif",
        "/cif/ID/..%2f..%2frun/5.cif", "/cif/../../run.json", "/cif/ID/relax/-1.cif",
        "/cif/ID/relax/%2e%2e%2frun.json", "/assets/../app.py", "/assets/..%2fapp.py",
        "/assets/%2e%2e/settings.py",
    ],
)  # fmt: skip
def test_nothing_but_candidates_can_be_downloaded(address, client, view):
    answer = client.get(address.replace("ID", view.id))
    # What is no download and no asset is the page itself.
    page = address.startswith("/assets/..") and b"_dash-config" in answer.data
    assert answer.status_code in (400, 404) or page
    assert b"import" not in answer.data
    assert b"spec_hash" not in answer.data


def test_a_name_from_a_file_does_not_reach_a_header(copy, open_store):
    rewrite(copy, "relax", 5, candidate_id=f"{EVIL}\r\nX-Evil: 1")
    (view,) = open_store(copy).runs()
    answer = make_app(Settings((copy,))).server.test_client().get(f"/cif/{view.id}/relax/5.cif")
    # The name comes from the first stage; another one would be no way in either.
    assert answer.status_code == 200
    rewrite(copy, "generate", 5, candidate_id=f"{EVIL}\r\nX-Evil: 1")
    answer = make_app(Settings((copy,))).server.test_client().get(f"/cif/{view.id}/relax/5.cif")
    assert answer.status_code == 200
    assert "X-Evil" not in answer.headers
    assert re.fullmatch(
        r'attachment; filename="[A-Za-z0-9._+-]+\.cif"', answer.headers["Content-Disposition"]
    )


def test_other_names_and_other_pages_are_refused(small):
    client = make_app(Settings((small,))).server.test_client()
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:8050"}).status_code == 200
    assert client.get("/", headers={"Host": "[::1]:8050"}).status_code == 200
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/_dash-update-component", json={}, headers=cross).status_code == 403


def test_headers_let_the_page_load_nothing_from_elsewhere(client):
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert "http" not in policy
    # Everything the page names is served from here.
    text = answer.data.decode()
    addresses = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert addresses
    assert all(address.startswith("/") for address in addresses)
    for address in addresses:
        assert client.get(address).status_code == 200, address


@pytest.mark.parametrize("address", PAGES)
@pytest.mark.parametrize("state", ["empty", "unfinished", "broken", "whole"])
def test_every_page_has_a_layout_in_every_state(address, state, tmp_path, small, open_store):
    root = small
    if state != "whole":
        root = tmp_path
    if state == "unfinished":
        write_campaign(tmp_path / "run", 40, stop=("generate", 0.5))
    if state == "broken":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text("{")
    store = open_store(root)
    layout = PAGES[address][1].layout(store, {"run": "no such run", "index": "x", "target": EVIL})
    # What goes to the browser is JSON; names in an address do not come back in it.
    text = json.dumps(layout, cls=plotly.utils.PlotlyJSONEncoder)
    assert ("found yet" in text) == (state in ("empty", "broken") and address != "/")
    assert "<img" not in text


def test_the_story_of_a_candidate(view):
    found = read_candidate(view, 5)
    assert found.id == "urea-z2-000005"
    assert [a.stage for a in found.attempts] == [
        "generate",
        "hydrogenate",
        "relax_h",
        "relax",
        "rank",
    ]
    assert found.stages[-1] == "rank"
    numbers = {name: (value, unit) for name, value, unit, _ in facts(found)}
    (row,) = view.store.stage("rank").rows([5])
    assert numbers["volume_A3"] == (f"{row['volume_A3']:.6g}", "Å3")
    assert int(numbers["rank"][0]) >= 1
    (first, _), (second, columns) = traces(found)
    assert (first, second) == ("relax_h", "relax")
    assert columns["step"][-1] == 110
    assert read_candidate(view, 10**6).attempts == ()


def test_a_candidate_that_failed_shows_the_structure_that_failed(view):
    frame = view.tables["relax"].frame
    index = int(frame["index"][(frame["status"] == "failed").to_numpy()].iloc[0])
    found = read_candidate(view, index)
    crystal, stage, sentence = found.crystal("relax")
    assert (len(crystal), stage, sentence) == (16, "relax", "")
    assert found.attempts[-1].row["status"] == "failed"


def test_groups_of_failures_put_what_broke_first_and_leave_out_what_went_on(view):
    found = failures.groups([view], ["failed", "unconverged", "rejected"])
    assert [g.status for g in found] == sorted(
        [g.status for g in found], key=["failed", "unconverged", "rejected"].index
    )
    failed = [g.count for g in found if g.status == "failed"]
    assert failed == sorted(failed, reverse=True)
    assert not any(g.stage == "relax_h" for g in found)
    for group in found:
        members = failures.members(view, group.key)
        assert len(members) == group.count
        rows = view.store.stage(group.stage).rows(members)
        assert {(r["status"], r["reason"]) for r in rows} == {(group.status, group.reason)}
    assert failures.members(view, {"stage": EVIL, "status": "failed", "reason": ""}) == []


def test_cost_follows_the_prices(small):
    priced = Settings((small,), cpu_hour_price=0.05, gpu_hour_price=2.0)
    assert campaigns.cost(36_000, 7_200, priced) == "cost 4.50"
    assert campaigns.cost(36_000, 7_200, Settings((small,))) == ""


def test_the_viewer_is_the_published_file():
    """3Dmol-min.js of the npm package 3dmol 2.5.5, with its licence beside it."""
    assets = Path(make_app.__code__.co_filename).parent / "assets"
    content = (assets / "3Dmol-min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "f7cc78921ae72e7623e89cdd111434f58c2efddd2ffda1cd212644b406fb8016"
    )
    assert "BSD-3-Clause" in (assets / "3Dmol-LICENSE.txt").read_text()
