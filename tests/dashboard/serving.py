"""A dashboard served on the loopback address, in a thread of the test."""

import threading
from contextlib import contextmanager


@contextmanager
def served(*roots, **settings):
    """Address of a dashboard that is served while the block runs."""
    from werkzeug.serving import make_server

    from dashboard.app import make_app
    from dashboard.settings import Settings

    app = make_app(Settings(tuple(roots), **{"refresh_s": 1.0, **settings}))
    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(timeout=10)
