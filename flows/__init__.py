"""Prefect flows and the `csp` command that runs them."""
