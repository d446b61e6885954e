"""Thin Prefect tasks, one module per stage; the work is done by `packflow_core`."""
