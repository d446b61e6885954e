"""packflow_core: the science of packflow-csp, importable and useful without Prefect."""

__version__ = "0.1.0"
