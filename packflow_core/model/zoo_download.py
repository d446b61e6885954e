"""Downloads of checkpoints: resumed after a break, whole or not there, never larger than allowed.

Plain `urllib`, because the plain install has no Hugging Face library. Proxies come from the usual
variables (`https_proxy`, `no_proxy`, ...), the token from HF_TOKEN. It is sent to the named server
alone, never to where that redirects, and is in no message.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import logging
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from packflow_core import __version__
from packflow_core.errors import UserInputError
from packflow_core.model.zoo_records import sha256_of_file

log = logging.getLogger(__name__)

#: No checkpoint of the zoo is as large; what is, is not the file that was asked for.
MAX_BYTES = 4_000_000_000
#: Silence after which a connection counts as broken, s.
TIMEOUT_S = 30.0
#: Breaks in a row, without a byte between them, after which a download gives up.
MAX_BREAKS = 4
#: Pause after the first break, s; doubles with each.
PAUSE_S = 1.0

_BLOCK = 1 << 20
_SERVER_TROUBLE = {408, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

#: Called with the bytes that are there and their number in all, None where it is not known.
OnBytes = Callable[[int, int | None], None]


class DownloadError(Exception):
    """A download that ended; the message is part of a sentence."""


class _BrokenError(Exception):
    """A connection that broke; another may do."""


@dataclass(frozen=True)
class Downloaded:
    """A file that is there.

    Attributes:
        sha256: of the file, hexadecimal.
        size: bytes.
        revision: commit that the server named; empty for none.
        stated: whether the server stated the hash, and it is right.
    """

    sha256: str
    size: int
    revision: str
    stated: bool


@dataclass
class _Answer:
    """What a server says about a file before it sends it."""

    stream: IO[bytes]
    offset: int
    total: int | None
    version: str
    sha256: str
    revision: str


def token() -> str:
    """The token of HF_TOKEN, empty for none.

    Raises:
        UserInputError: it cannot be sent; the message does not show it.
    """
    value = os.environ.get("HF_TOKEN", "").strip()
    if not value.isascii() or any(c.isspace() or not c.isprintable() for c in value):
        raise UserInputError(
            "HF_TOKEN holds characters that no token has; set it to your Hugging Face token or "
            "unset it."
        )
    return value


def download(
    url: str,
    target: Path,
    *,
    sha256: str = "",
    secret: str = "",
    max_bytes: int = MAX_BYTES,
    on_bytes: OnBytes | None = None,
) -> Downloaded:
    """Download a file; what is there of it from an earlier attempt is kept.

    Args:
        url: http or https.
        target: where it goes, at once and whole.
        sha256: what its hash has to be; empty where that is not known. A hash that the server
            states is checked as well.
        secret: bearer token for the server of `url`.
        max_bytes: size above which nothing is written.
        on_bytes: see `OnBytes`.

    Raises:
        DownloadError: why there is no file.
        OSError: the disk refused.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is not an http or https address")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        part = target.with_name(target.name + ".part")
        answer = _fetch(url, part, secret, max_bytes, on_bytes)
        found = sha256_of_file(part)
        for wanted, who in ((sha256, "known here"), (answer.sha256, "that the server stated")):
            if wanted and found != wanted:
                _drop(part)
                raise DownloadError(
                    f"what came has the sha256 {found[:12]}... instead of {wanted[:12]}... {who}, "
                    "and was deleted"
                )
        size = part.stat().st_size
        _sync(part)
        os.replace(part, target)
        _drop(part)
    return Downloaded(found, size, answer.revision, bool(answer.sha256))


def _fetch(url: str, part: Path, secret: str, max_bytes: int, on_bytes: OnBytes | None) -> _Answer:
    """Complete `part`, over as many connections as it takes."""
    breaks, pause = 0, PAUSE_S
    while True:
        before = _size(part)
        try:
            with contextlib.ExitStack() as stack:
                answer = _ask(url, part, secret)
                stack.enter_context(answer.stream)
                _receive(answer, part, max_bytes, on_bytes)
            return answer
        except _BrokenError as error:
            moved = _size(part) > before
            breaks = 1 if moved else breaks + 1
            if breaks >= MAX_BREAKS:
                raise DownloadError(f"the connection broke again and again: {error}") from error
            log.info("download of %s broke (%s), trying again", part.name, error)
            pause = PAUSE_S if moved else 2 * pause
            time.sleep(pause)


def _ask(url: str, part: Path, secret: str) -> _Answer:
    """Ask for the file, or for the rest of it."""
    have, version = _size(part), _version_of(part)
    if not version:  # without one, nobody knows whether the rest belongs to the beginning
        have = 0
    request = urllib.request.Request(url)
    request.add_header("User-Agent", f"packflow-csp/{__version__}")
    request.add_header("Accept-Encoding", "identity")
    if have:
        request.add_header("Range", f"bytes={have}-")
    if secret:
        request.add_unredirected_header("Authorization", f"Bearer {secret}")
    redirects = _Redirects(url, secret)
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # another file than before, or the end of this one
                _drop(part)
                raise _BrokenError("the server has another file now") from error
            raise _refusal(error) from error
    except urllib.error.URLError as error:
        raise _no_connection(error.reason) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _no_connection(error) from error
    return _read_answer(response, redirects.first, part, have, version)


def _read_answer(
    response: Any, first: Message | None, part: Path, have: int, version: str
) -> _Answer:
    headers: Message = response.headers
    if headers.get_content_type() == "text/html":
        response.close()
        raise DownloadError("the server sent a web page instead of the file; a proxy or login?")
    stated = next((h for h in (first, headers) if h is not None and "X-Linked-Etag" in h), headers)
    linked = (stated.get("X-Linked-Etag") or "").removeprefix("W/").strip('"').lower()
    now = linked or headers.get("ETag") or headers.get("Last-Modified") or ""
    offset, total = 0, _number(headers.get("Content-Length"))
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have or now != version:
            response.close()
            _drop(part)
            raise _BrokenError("the server has another file now")
        offset, total = have, int(match[2])
    return _Answer(
        stream=response,
        offset=offset,
        total=total,
        version=now,
        sha256=linked if re.fullmatch(r"[0-9a-f]{64}", linked) else "",
        revision=(stated.get("X-Repo-Commit") or "")[:64],
    )


def _receive(answer: _Answer, part: Path, max_bytes: int, on_bytes: OnBytes | None) -> None:
    """Write what comes behind what is there."""
    done, total = answer.offset, answer.total
    _check_room(part, done, total, max_bytes)
    with part.open("r+b" if done else "wb") as file:
        file.seek(done)
        file.truncate()
        _note(part).write_text(json.dumps({"version": answer.version}), encoding="utf-8")
        while True:
            try:
                block = answer.stream.read(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenError(_words(error)) from error
            if not block:
                break
            done += len(block)
            if done > max_bytes or (total is not None and done > total):
                _drop(part)
                raise DownloadError("the server sends more than the file can hold")
            file.write(block)
            if on_bytes:
                on_bytes(done, total)
    if total is not None and done < total:
        raise _BrokenError(f"{done} of {total} bytes came")


def _check_room(part: Path, done: int, total: int | None, max_bytes: int) -> None:
    if total is None:
        return
    if total > max_bytes:
        raise DownloadError(f"the server offers {total / 1e9:.1f} GB, which is not this file")
    free = shutil.disk_usage(part.parent).free
    if total - done > free:
        raise DownloadError(
            f"{(total - done) / 1e6:.0f} MB are to come and {free / 1e6:.0f} MB are free at "
            f"{part.parent}"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web alone, keeps the first answer, and keeps the token at home."""

    def __init__(self, url: str, secret: str) -> None:
        self._home = urllib.parse.urlsplit(url)
        self._secret = secret
        self.first: Message | None = None

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if self.first is None:
            self.first = headers
        there = urllib.parse.urlsplit(newurl)
        downgrade = self._home.scheme == "https" and there.scheme != "https"
        if there.scheme not in ("http", "https") or downgrade:
            raise DownloadError(f"the server redirects to {there.scheme}, which is not safe")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        at_home = (there.scheme, there.netloc) == (self._home.scheme, self._home.netloc)
        if request is not None and self._secret and at_home:
            request.add_unredirected_header("Authorization", f"Bearer {self._secret}")
        return request


def _refusal(error: urllib.error.HTTPError) -> Exception:
    if error.code in _SERVER_TROUBLE:
        return _BrokenError(f"HTTP {error.code}")
    if error.code in (401, 403):
        return DownloadError(f"access was refused (HTTP {error.code}); HF_TOKEN may help")
    if error.code == 404:
        return DownloadError("the file is not there any more (HTTP 404)")
    return DownloadError(f"the server answered HTTP {error.code}")


def _no_connection(reason: Any) -> Exception:
    """What a failure to connect means: what may pass is tried again."""
    if isinstance(reason, TimeoutError | ConnectionResetError | http.client.RemoteDisconnected):
        return _BrokenError(_words(reason))
    return DownloadError(_words(reason))


def _words(error: Any) -> str:
    """A few words about an error; never its whole text, which may quote a header."""
    if isinstance(error, ssl.SSLError):
        return f"the connection is not safe: {error.reason or 'TLS failed'}"
    if isinstance(error, socket.gaierror):
        return "no network, or the name of the server cannot be found"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:100]
    return type(error).__name__ if isinstance(error, Exception) else str(error)[:100]


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep a second process from writing the same file."""
    descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError("another process is downloading it; wait for that one") from None
        yield
    finally:
        os.close(descriptor)


def _note(part: Path) -> Path:
    """Where it is noted which version of a file a part is of."""
    return part.with_name(part.name + ".json")


def _drop(part: Path) -> None:
    """Forget what is there of a file."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _version_of(part: Path) -> str:
    try:
        return str(json.loads(_note(part).read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
