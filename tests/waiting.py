"""Waiting for what another process does."""

import time


def wait_for(condition, what, timeout=300.0):
    """Poll until `condition()` is true."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {timeout} s")
