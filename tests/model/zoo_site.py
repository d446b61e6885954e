"""A web server on this machine that serves one file, well or badly, for tests of downloads."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """What the server does, and what it was asked.

    Attributes:
        data: the file.
        hub: answer like Hugging Face: a redirect to `/cdn` with the hash of the file.
        cut: byte positions at which connections break, used up one by one.
        statuses: statuses of the next answers, used up one by one; 0 for the file.
        honours_range: whether a part of the file can be asked for.
        says_length: whether answers have a length.
        token: bearer token that is asked for; empty for none.
        redirect: address to redirect to instead.
        seen: (path, headers) of every request.
    """

    def __init__(self, data=b""):
        self.data = data
        self.hub = True
        self.cut = []
        self.statuses = []
        self.honours_range = True
        self.says_length = True
        self.token = ""
        self.redirect = ""
        self.linked_sha256 = None
        self.content_type = "application/octet-stream"
        self.claims = None
        self.seen = []
        self.url = ""

    @property
    def etag(self):
        return f'"{hashlib.md5(self.data).hexdigest()}"'

    def asked(self, header):
        return [headers.get(header) for _, headers in self.seen]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server.site
        site.seen.append((self.path, dict(self.headers)))
        status = site.statuses.pop(0) if site.statuses else 0
        if status:
            self.send_error(status)
        elif site.token and self.headers.get("Authorization") != f"Bearer {site.token}":
            if not self.path.startswith("/cdn"):
                self.send_error(401)
            else:
                self._file(site)
        elif site.redirect:
            self.send_response(302)
            self.send_header("Location", site.redirect)
            self.end_headers()
        elif site.hub and not self.path.startswith("/cdn"):
            self.send_response(302)
            self.send_header("Location", "/cdn" + self.path)
            sha256 = site.linked_sha256 or hashlib.sha256(site.data).hexdigest()
            self.send_header("X-Linked-Etag", f'"{sha256}"')
            self.send_header("X-Repo-Commit", "c0ffee")
            self.end_headers()
        else:
            self._file(site)

    def _file(self, site):
        data, start = site.data, 0
        asked = self.headers.get("Range")
        if asked and site.honours_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if site.says_length:
            length = len(data) - start if site.claims is None else site.claims
            self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", site.content_type)
        self.send_header("ETag", site.etag)
        self.end_headers()
        end = site.cut.pop(0) if site.cut else len(data)
        self.wfile.write(data[start:end])


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Clients that hang up are what is tested."""


@contextmanager
def serve(site):
    """Serve a site; its address is in `site.url` meanwhile."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.site = site
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
