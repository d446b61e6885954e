"""What `csp models` shows and does."""

import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from zoo_site import Site, serve

from flows import model_commands
from flows.console import Terminal
from packflow_core.errors import UserInputError
from packflow_core.model import zoo_download
from packflow_core.model.checkpoint import sha256_of

FILE = Path(__file__).parents[1] / "data" / "golden" / "small_best_model.pt"
SHA256 = hashlib.sha256(FILE.read_bytes()).hexdigest()


class Heard(Terminal):
    """A terminal that remembers."""

    def __init__(self, json=False, quiet=False):
        super().__init__()
        self.json, self.quiet = json, quiet
        self.out, self.err = io.StringIO(), io.StringIO()

    @property
    def document_(self):
        return json.loads(self.out.getvalue())


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    for name in (
        "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "PACKFLOW_HF_REPO", "http_proxy",
        "HTTP_PROXY", "all_proxy", "ALL_PROXY",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(zoo_download, "PAUSE_S", 0.0)
    with serve(Site(FILE.read_bytes())) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site


def run(command, *arguments, json=False, **more):
    terminal = Heard(json=json)
    command(terminal, *arguments, **more)
    return terminal


def test_the_list_has_every_model_with_its_licence():
    heard = run(model_commands.list_models)
    text = heard.out.getvalue()
    for name in (
        "packflow-open",
        "packflow-open-pa",
        "packflow-2M",
        "packflow-20M",
        "packflow-60M",
        "packflow-pa",
    ):
        assert name in text
    assert text.count("CC BY-NC 4.0") == 4
    assert "built in" in text
    assert "csp models download" in heard.err.getvalue()
    found = run(model_commands.list_models, json=True).document_["models"]
    assert [m["present"] for m in found] == [True, True, False, False, False, False]
    assert [m["name"] for m in found if m["default"]] == ["packflow-open"]


def test_show_of_the_shipped_model():
    text = run(model_commands.show_model, "packflow-open").out.getvalue()
    for words in ("licence: MIT", "CPOSS", "steps: 22000", "parameters: 4643313", "source: "):
        assert words in text


def test_show_before_and_after_a_download(hub):
    heard = run(model_commands.show_model, "packflow-2M")
    text = heard.out.getvalue()
    assert "Not for commercial use" in text
    assert "the first download is trusted" in text
    assert "csp models download packflow-2M" in heard.err.getvalue()
    assert hub.seen == []  # looking costs no network

    heard = run(model_commands.download_model, "packflow-2M")
    assert f"sha256 {SHA256}" in heard.out.getvalue()
    said = heard.err.getvalue().splitlines()
    assert said[0].startswith("packflow-2M: CC BY-NC 4.0. Not for commercial use")
    assert re.fullmatch(r"packflow-2M: 0 of 0 MB", said[1])

    facts = run(model_commands.show_model, "packflow-ddp", json=True).document_
    assert (facts["name"], facts["present"]) == ("packflow-60M", False)
    facts = run(model_commands.show_model, "packflow-2M", json=True).document_
    assert (facts["present"], facts["sha256"], facts["preset"]) == (True, SHA256, "official")
    assert re.search(
        r"recorded at the first download on \d{4}-\d\d-\d\d, where the server stated the same",
        facts["checksum"],
    )
    assert "training_config" in facts["meta"]


def test_a_download_that_is_there_is_not_repeated(hub):
    first = run(model_commands.download_model, "packflow-2M", json=True).document_
    hub.seen.clear()
    again = run(model_commands.download_model, "packflow-2M", json=True).document_
    assert (first["downloaded"], again["downloaded"]) == (True, False)
    assert first["sha256"] == again["sha256"] == SHA256
    assert hub.seen == []
    forced = run(model_commands.download_model, "packflow-2M", force=True, json=True).document_
    assert forced["downloaded"]
    assert len(hub.seen) == 2
    shipped = run(model_commands.download_model, "packflow-open", json=True).document_
    assert not shipped["downloaded"]


def test_what_is_no_checkpoint_is_said_after_the_download(hub):
    hub.data = b"no checkpoint" * 1000
    with pytest.raises(UserInputError, match="cannot be read as a checkpoint"):
        run(model_commands.download_model, "packflow-2M")
    hub.data = FILE.read_bytes()
    assert run(model_commands.download_model, "packflow-2M", json=True).document_["downloaded"]


def test_verify(hub, tmp_path):
    text = run(model_commands.verify_model, "packflow-open").out.getvalue()
    assert "samples finite crystals" in text
    run(model_commands.download_model, "packflow-2M")
    facts = run(model_commands.verify_model, "packflow-2M", json=True).document_
    assert facts["verified"]
    assert facts["sha256_known_by"].startswith("recorded at the first download")
    facts = run(model_commands.verify_model, str(FILE), json=True).document_
    assert facts["sha256_known_by"] == "nobody: it is a file of yours"
    with pytest.raises(UserInputError, match="--accept is for models"):
        run(model_commands.verify_model, str(FILE), accept=True)


def test_show_of_a_file_says_that_its_licence_is_not_known():
    facts = run(model_commands.show_model, str(FILE), json=True).document_
    assert facts["licence"].startswith("not stated")
    assert facts["sha256"] == SHA256


def test_convert(tmp_path):
    target = tmp_path / "m.safetensors"
    facts = run(model_commands.convert_model, str(FILE), target, json=True).document_
    assert facts == {"path": str(target), "sha256": sha256_of(target), "preset": "official"}
    text = run(model_commands.verify_model, str(target)).out.getvalue()
    assert sha256_of(target) in text


def test_a_bar_on_a_terminal(monkeypatch):
    heard = Heard()
    heard.err.isatty = lambda: True
    model_commands.download_model(heard, "packflow-2M")
    assert "packflow-2M" in heard.err.getvalue()
    quiet = Heard(quiet=True)
    model_commands.download_model(quiet, "packflow-2M", force=True)
    assert "MB" not in quiet.err.getvalue()
