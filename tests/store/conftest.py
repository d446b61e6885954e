"""Fixtures of the tests of the store."""

from s3_server import bucket, s3_server  # noqa: F401
