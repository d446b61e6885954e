"""The models with a name: where they are found, fetched, and what vouches for them."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from zoo_site import Site, serve

from packflow_core.errors import UserInputError
from packflow_core.model import zoo, zoo_download
from packflow_core.model.checkpoint import load_model
from packflow_core.model.zoo_fetch import check, fetch
from packflow_core.model.zoo_records import read_record, record_path

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
FILE = GOLDEN / "small_best_model.pt"
OTHER = GOLDEN / "small_pa_best_model.pt"
SHA256 = hashlib.sha256(FILE.read_bytes()).hexdigest()
TINY = zoo.ZOO["packflow-2M"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network but the test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "PACKFLOW_HF_REPO"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(zoo_download, "PAUSE_S", 0.0)
    return tmp_path / "cache" / "packflow-csp" / "models"


@pytest.fixture
def hub(monkeypatch):
    """A Hugging Face of our own that has one file, whatever it is asked for."""
    with serve(Site(FILE.read_bytes())) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url + "/")
        yield site


def by_hand(cache, source=FILE):
    cache.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, cache / "packflow-2M.pt"))


@pytest.mark.parametrize("name", ["packflow-open", "packflow-open-pa"])
def test_the_shipped_file_is_the_one_that_the_zoo_says(name):
    model = zoo.ZOO[name]
    loaded = load_model(name)
    # After a new training: 'csp models convert', then the hash and the number of parameters here.
    assert loaded.sha256 == model.sha256
    assert sum(p.numel() for p in loaded.model.parameters()) == model.parameters
    assert loaded.meta["licence"].startswith(model.licence)
    assert zoo.find(model).suffix == ".safetensors"
    assert check(model).who == "packflow-csp"


def test_sizes_of_the_published_models_are_those_of_their_architecture():
    from packflow_core.model.official import OfficialConfig, OfficialPackFlow

    shapes = {
        "packflow-2M": (256, 8, 4, 512),
        "packflow-20M": (320, 8, 12, 1280),
        "packflow-60M": (640, 10, 12, 2560),
    }
    for name, (d, heads, layers, ff) in shapes.items():
        config = OfficialConfig(d_model=d, nhead=heads, num_layers=layers, dim_feedforward=ff)
        import torch

        with torch.device("meta"):
            network = OfficialPackFlow(config)
        assert sum(p.numel() for p in network.parameters()) == zoo.ZOO[name].parameters
    assert zoo.ZOO["packflow-pa"].parameters == zoo.ZOO["packflow-60M"].parameters


def test_names():
    assert zoo.entry("packflow-ddp") is zoo.named("packflow-60M")
    assert zoo.is_named("packflow-60M")
    assert not zoo.is_named("./packflow-60M")
    with pytest.raises(UserInputError, match=r"did you mean packflow-60M\?"):
        zoo.named("packflow-60m")
    with pytest.raises(
        UserInputError, match="models are packflow-open, packflow-open-pa, packflow-2M"
    ):
        zoo.named("xyz")
    licences = {name: model.licence for name, model in zoo.ZOO.items()}
    assert licences.pop("packflow-open") == licences.pop("packflow-open-pa") == "MIT"
    assert set(licences.values()) == {"CC BY-NC 4.0"}


def test_addresses(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT")
    there = "https://huggingface.co/aksub99/packflow-checkpoints/resolve/main"
    assert zoo.address(zoo.named("packflow-60M")) == f"{there}/packflow-ddp/best_model.pt"
    assert zoo.address(zoo.named("packflow-pa")) == f"{there}/packflow-pa/best_model.pt"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.invalid/")
    monkeypatch.setenv("PACKFLOW_HF_REPO", "me/mine")
    assert zoo.address(TINY).startswith("https://mirror.invalid/me/mine/resolve/main/packflow-2M/")
    elsewhere = replace(TINY, hub_file="", url="https://else.invalid/big.safetensors")
    assert zoo.address(elsewhere) == "https://else.invalid/big.safetensors"
    assert zoo.kept_file(elsewhere).name == "packflow-2M.safetensors"


def test_folder_of_the_downloads(monkeypatch, tmp_path, cache):
    assert zoo.models_folder() == cache
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the standard
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.models_folder() == tmp_path / ".cache" / "packflow-csp" / "models"


def test_a_model_that_is_not_here_says_how_to_get_it(cache):
    with pytest.raises(UserInputError) as caught:
        load_model("packflow-60M")
    sentence = str(caught.value)
    assert "'csp models download packflow-60M' (745 MB, licence CC BY-NC 4.0)" in sentence
    assert str(cache / "packflow-60M.pt") in sentence


def test_download(hub, cache):
    path = fetch(TINY)
    assert path == cache / "packflow-2M.pt"
    record = read_record(path)
    assert (record.sha256, record.size, record.revision, record.stated) == (
        SHA256, FILE.stat().st_size, "c0ffee", True,
    )  # fmt: skip
    assert record.source == zoo.address(TINY)
    assert hub.seen[0][0] == "/aksub99/packflow-checkpoints/resolve/main/packflow-2M/best_model.pt"
    loaded = load_model("packflow-2M")
    assert (loaded.preset, loaded.sha256) == ("official", SHA256)
    hub.seen.clear()
    assert fetch(TINY) == path
    assert hub.seen == []
    assert fetch(TINY, force=True) == path
    assert len(hub.seen) == 2


def test_the_token_goes_to_the_hub_and_into_no_sentence(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.statuses = [403]
    with pytest.raises(UserInputError) as caught:
        fetch(TINY)
    assert hub.asked("Authorization") == ["Bearer hf_secret"]
    assert "HTTP 403" in str(caught.value)
    assert "secret" not in str(caught.value)
    elsewhere = replace(TINY, hub_file="", url=hub.url + "/big.pt")
    hub.seen.clear()
    fetch(elsewhere)
    assert set(hub.asked("Authorization")) == {None}


@pytest.mark.parametrize("forbidden", [True, False])
def test_without_a_network_one_sentence_says_what_to_do_by_hand(monkeypatch, cache, forbidden):
    if forbidden:
        monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    with pytest.raises(UserInputError) as caught:
        fetch(TINY)
    sentence = str(caught.value)
    assert ("HF_HUB_OFFLINE" in sentence) is forbidden
    assert ("Connection refused" in sentence) is not forbidden
    assert zoo.address(TINY) in sentence
    assert str(cache / "packflow-2M.pt") in sentence
    assert "\n" not in sentence


def test_a_file_that_is_here_is_used_without_a_network(cache):
    path = by_hand(cache)
    assert fetch(TINY) == path
    assert load_model("packflow-2M").sha256 == SHA256


def test_a_failed_renewal_keeps_the_old_file(cache):
    path = by_hand(cache)
    with pytest.raises(UserInputError, match=r"cannot be had again.*stays as it is"):
        fetch(TINY, force=True)
    assert load_model("packflow-2M").sha256 == SHA256
    assert path.is_file()


def test_another_file_than_the_first_is_refused(hub, cache):
    path = fetch(TINY)
    shutil.copy(OTHER, path)
    for look in (lambda: load_model("packflow-2M"), lambda: check(TINY)):
        with pytest.raises(UserInputError) as caught:
            look()
        sentence = str(caught.value)
        assert f"instead of {SHA256[:12]}" in sentence
        assert "recorded at the first download" in sentence
        assert "--force" in sentence
        assert "--accept" in sentence
    # as a path, it is a file like any other
    assert load_model(str(path)).sha256 != SHA256
    fetch(TINY, force=True)
    assert load_model("packflow-2M").sha256 == SHA256


def test_a_file_put_there_by_hand_is_recorded_when_it_is_verified(cache):
    path = by_hand(cache)
    assert read_record(path) is None
    assert "recorded now" in check(TINY).who
    assert read_record(path).how == "when it was verified"
    assert "recorded when it was verified on" in check(TINY).who
    shutil.copy(OTHER, path)
    with pytest.raises(UserInputError, match="not the file of packflow-2M that is known here"):
        check(TINY)
    assert "recorded now" in check(TINY, accept=True).who
    assert load_model("packflow-2M").sha256 == hashlib.sha256(OTHER.read_bytes()).hexdigest()


def test_a_hash_that_is_published_cannot_be_overruled(cache):
    by_hand(cache, OTHER)
    model = replace(TINY, sha256=SHA256)
    with pytest.raises(UserInputError, match=r"instead of .*packflow-csp"):
        check(model, accept=True)
    by_hand(cache, FILE)
    assert check(model).who == "packflow-csp"


def test_a_damaged_record_is_no_record(cache, caplog):
    path = by_hand(cache)
    wrong_hash = {"sha256": "x", "size": 1, "how": "", "date": ""}
    for text in ("{", "[]", '{"sha256": "x"}', json.dumps(wrong_hash)):
        record_path(path).write_text(text)
        assert read_record(path) is None
    assert "cannot be read" in caplog.text
    assert load_model("packflow-2M").sha256 == SHA256


def hub_cache(folder, blob):
    """The layout of the cache of the Hugging Face tools."""
    repository = folder / "models--aksub99--packflow-checkpoints"
    snapshot = repository / "snapshots" / "c0ffee" / "packflow-2M"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    shutil.copy(FILE, repository / "blobs" / blob)
    os.symlink(repository / "blobs" / blob, snapshot / "best_model.pt")
    return snapshot / "best_model.pt"


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"])
def test_what_the_hugging_face_tools_fetched_is_found(tmp_path, monkeypatch, variable):
    where = {"HF_HOME": "hub", "HF_HUB_CACHE": "", "XDG_CACHE_HOME": "huggingface/hub"}[variable]
    monkeypatch.setenv(variable, str(tmp_path / "theirs"))
    path = hub_cache(tmp_path / "theirs" / where, SHA256)
    assert zoo.find(TINY) == path
    assert load_model("packflow-2M").sha256 == SHA256
    assert check(TINY).who == "the cache of the Hugging Face tools"
    assert not record_path(path).exists()


def test_a_file_of_the_hugging_face_tools_must_have_its_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    hub_cache(tmp_path / "hub", "0" * 64)
    with pytest.raises(UserInputError, match="cache of the Hugging Face tools"):
        load_model("packflow-2M")
    with pytest.raises(UserInputError, match="--accept is for files in"):
        check(TINY, accept=True)


def test_our_own_folder_comes_first(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    hub_cache(tmp_path / "hub", SHA256)
    path = by_hand(cache, OTHER)
    assert zoo.find(TINY) == path


def test_a_folder_that_cannot_be_written_is_one_sentence(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserInputError, match=r"cannot be written \(Not a directory\).*XDG_CACHE"):
        fetch(TINY)
