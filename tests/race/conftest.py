"""Races in folders of the test, with work that no other process does."""

from race_runs import inline, write  # noqa: F401
