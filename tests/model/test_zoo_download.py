"""Downloads of checkpoints from a server that behaves, breaks, lies or wants a token."""

import errno
import hashlib
import json
import os
import shutil
import socket
import urllib.request
from email.message import Message

import numpy as np
import pytest
from zoo_site import Site, serve

from packflow_core.errors import UserInputError
from packflow_core.model import zoo_download
from packflow_core.model.zoo_download import DownloadError, download, token

DATA = np.random.default_rng(0).bytes(3_000_017)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(zoo_download, "PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve(Site(DATA)) as found:
        yield found


def left(folder):
    """Files in a folder but for locks."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_file_comes_whole_with_what_the_server_says_of_it(site, tmp_path):
    seen = []
    done = download(site.url + "/m.pt", tmp_path / "a" / "m.pt", on_bytes=lambda *s: seen.append(s))
    assert (tmp_path / "a" / "m.pt").read_bytes() == DATA
    assert (done.sha256, done.size, done.revision, done.stated) == (
        SHA256, len(DATA), "c0ffee", True,
    )  # fmt: skip
    assert left(tmp_path / "a") == ["m.pt"]
    assert seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_plain_server_states_no_hash(site, tmp_path):
    site.hub = False
    done = download(site.url + "/m.pt", tmp_path / "m.pt")
    assert (done.sha256, done.revision, done.stated) == (SHA256, "", False)


def test_broken_connections_are_taken_up_where_they_broke(site, tmp_path):
    site.cut = [1_000_000, 1_000_001, 2_500_000]
    done = download(site.url + "/m.pt", tmp_path / "m.pt")
    assert (tmp_path / "m.pt").read_bytes() == DATA
    assert done.sha256 == SHA256
    ranges = [r for (path, _), r in zip(site.seen, site.asked("Range"), strict=True)
              if path.startswith("/cdn")]  # fmt: skip
    assert ranges == [None, "bytes=1000000-", "bytes=1000001-", "bytes=2500000-"]


def test_another_process_takes_up_what_an_earlier_one_left(site, tmp_path):
    site.cut = [2_000_000]
    site.statuses = [0, 0, 403]
    with pytest.raises(DownloadError, match="HTTP 403"):
        download(site.url + "/m.pt", tmp_path / "m.pt")
    assert left(tmp_path) == ["m.pt.part", "m.pt.part.json"]
    site.seen.clear()
    done = download(site.url + "/m.pt", tmp_path / "m.pt")
    assert done.sha256 == SHA256
    assert site.asked("Range")[-1] == "bytes=2000000-"


def test_the_rest_of_another_file_is_not_glued_on(site, tmp_path):
    site.cut, site.statuses = [2_000_000], [0, 0, 403]
    with pytest.raises(DownloadError):
        download(site.url + "/m.pt", tmp_path / "m.pt")
    site.data = DATA[::-1]
    done = download(site.url + "/m.pt", tmp_path / "m.pt")
    assert (tmp_path / "m.pt").read_bytes() == DATA[::-1]
    assert done.sha256 == hashlib.sha256(DATA[::-1]).hexdigest()


def test_a_part_longer_than_the_file_begins_anew(site, tmp_path):
    (tmp_path / "m.pt.part").write_bytes(DATA + b"more")
    (tmp_path / "m.pt.part.json").write_text(json.dumps({"version": SHA256}))
    assert download(site.url + "/m.pt", tmp_path / "m.pt").sha256 == SHA256


def test_a_server_without_ranges_begins_anew(site, tmp_path):
    site.honours_range, site.cut = False, [1_000_000]
    assert download(site.url + "/m.pt", tmp_path / "m.pt").sha256 == SHA256


def test_a_part_that_nobody_knows_the_version_of_is_not_trusted(site, tmp_path):
    (tmp_path / "m.pt.part").write_bytes(b"x" * 1000)
    assert download(site.url + "/m.pt", tmp_path / "m.pt").sha256 == SHA256
    assert site.asked("Range") == [None, None]


def test_trouble_of_the_server_passes(site, tmp_path):
    site.statuses = [503, 0, 429]
    assert download(site.url + "/m.pt", tmp_path / "m.pt").sha256 == SHA256


def test_a_connection_that_always_breaks_ends(site, tmp_path):
    site.cut = [1000] * 100
    with pytest.raises(DownloadError, match="again and again: 1000 of 3000017 bytes came"):
        download(site.url + "/m.pt", tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()
    assert len(site.seen) == 2 * zoo_download.MAX_BREAKS


def test_silence_is_a_break(site, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_download, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(zoo_download, "MAX_BREAKS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DownloadError, match="no answer in time"):
            download(f"http://127.0.0.1:{port}/m.pt", tmp_path / "m.pt")


@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_hash_leaves_nothing(site, tmp_path, known):
    if known:
        wanted = "0" * 64
    else:
        wanted, site.linked_sha256 = "", "1" * 64
    with pytest.raises(DownloadError, match=r"sha256 \w{12}\.\.\. instead of (0{12}|1{12})"):
        download(site.url + "/m.pt", tmp_path / "m.pt", sha256=wanted)
    assert left(tmp_path) == []


def test_a_wrong_hash_does_not_touch_the_file_that_was_there(site, tmp_path):
    (tmp_path / "m.pt").write_bytes(b"old")
    with pytest.raises(DownloadError):
        download(site.url + "/m.pt", tmp_path / "m.pt", sha256="0" * 64)
    assert (tmp_path / "m.pt").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("says_length", "words"), [(True, "GB, which is not"), (False, "more than the file can hold")]
)
def test_too_large_a_file_is_refused(site, tmp_path, says_length, words):
    site.says_length = says_length
    with pytest.raises(DownloadError, match=words):
        download(site.url + "/m.pt", tmp_path / "m.pt", max_bytes=1_000_000)
    assert left(tmp_path) == []


def test_a_server_that_offers_too_much_is_refused_before_it_sends(site, tmp_path):
    site.claims = 10**11
    with pytest.raises(DownloadError, match=r"offers 100\.0 GB"):
        download(site.url + "/m.pt", tmp_path / "m.pt")
    assert left(tmp_path) == []


def test_a_full_disk_is_seen_before(site, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10_000_000, 9_000_000, 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="3 MB are to come and 1 MB are free"):
        download(site.url + "/m.pt", tmp_path / "m.pt")


def test_a_web_page_is_no_file(site, tmp_path):
    site.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a web page instead of the file"):
        download(site.url + "/m.pt", tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("status", "words"), [(404, "not there any more"), (401, "HF_TOKEN may help"), (410, "410")]
)
def test_a_refusal_is_said_at_once(site, tmp_path, status, words):
    site.statuses = [status]
    with pytest.raises(DownloadError, match=words):
        download(site.url + "/m.pt", tmp_path / "m.pt")
    assert len(site.seen) == 1


def test_the_token_stays_with_its_server(site, tmp_path):
    with serve(Site(DATA)) as elsewhere:
        elsewhere.hub = False
        site.token, site.redirect = "hf_secret", elsewhere.url + "/m.pt"
        download(site.url + "/m.pt", tmp_path / "m.pt", secret="hf_secret")
        assert site.asked("Authorization") == ["Bearer hf_secret"]
        assert elsewhere.asked("Authorization") == [None]
    site.redirect = ""
    download(site.url + "/n.pt", tmp_path / "n.pt", secret="hf_secret")
    assert site.asked("Authorization")[1:] == ["Bearer hf_secret"] * 2


def test_a_redirect_to_another_kind_of_address_is_refused(site, tmp_path):
    site.redirect = "ftp://127.0.0.1/m.pt"
    with pytest.raises(DownloadError, match="redirects to ftp"):
        download(site.url + "/m.pt", tmp_path / "m.pt")
    site.redirect = "file:///etc/passwd"
    with pytest.raises(DownloadError, match="HTTP 302"):
        download(site.url + "/m.pt", tmp_path / "m.pt")
    with pytest.raises(DownloadError, match="not an http or https"):
        download("file:///etc/passwd", tmp_path / "m.pt")


def test_a_redirect_from_https_to_http_is_refused():
    handler = zoo_download._Redirects("https://hub.invalid/m.pt", "hf_secret")
    request = urllib.request.Request("https://hub.invalid/m.pt")
    headers = Message()
    with pytest.raises(DownloadError, match="redirects to http, which is not safe"):
        handler.redirect_request(request, None, 302, "", headers, "http://hub.invalid/m.pt")
    there = handler.redirect_request(request, None, 302, "", headers, "https://cdn.invalid/m.pt")
    assert not there.has_header("Authorization")


def test_the_token_is_never_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_se cret\n")
    with pytest.raises(UserInputError) as caught:
        token()
    assert "cret" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", " hf_secret\n")
    assert token() == "hf_secret"
    monkeypatch.delenv("HF_TOKEN")
    assert token() == ""


def test_proxies_of_the_environment_are_used(site, tmp_path, monkeypatch):
    site.hub = False
    monkeypatch.setenv("http_proxy", site.url)
    assert download("http://far.invalid/m.pt", tmp_path / "m.pt").sha256 == SHA256
    assert site.seen[0][0] == "http://far.invalid/m.pt"


def test_no_network_is_said_in_a_few_words(tmp_path):
    with pytest.raises(DownloadError, match="Connection refused"):
        download("http://127.0.0.1:9/m.pt", tmp_path / "m.pt")


def test_two_at_once_do_not_write_one_file(site, tmp_path):
    target = tmp_path / "m.pt"
    with zoo_download._alone(target), pytest.raises(DownloadError, match="another process"):
        download(site.url + "/m.pt", target)
    assert download(site.url + "/m.pt", target).sha256 == SHA256


def test_a_disk_error_is_the_disks(site, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zoo_download, "_sync", refuse)
    with pytest.raises(OSError, match="No space left"):
        download(site.url + "/m.pt", tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()
