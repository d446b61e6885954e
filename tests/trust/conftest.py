"""Runs in a folder of the test, with workers that are no processes."""

from fake_pool import open_folder, workers  # noqa: F401
