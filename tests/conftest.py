"""Fixtures that several test folders share."""

import hashlib
import os
import signal
import sys

# A shell starts what runs in its background with Ctrl-C ignored, and programs that the tests start
# would inherit that; with a handler here they start with the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before numpy and the engines' libraries: results to the last bit need one thread, as in workers.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import pytest
from hypothesis import settings

from packflow_core.store.rows import crystal_columns
from packflow_core.store.schema import Status

# The same examples in every run: a red test means that something changed.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory):
    """Whatever is cached between commands is cached for this test session alone."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def call_csp(monkeypatch, capsys):
    """Call `csp` in this process: exit code, standard output, standard error."""
    from flows import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["csp", *map(str, arguments)])
        monkeypatch.setattr(cli, "terminal", cli.Terminal())
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


@pytest.fixture(scope="session")
def make_row():
    """Factory of rows with a small crystal; `index` is the identity."""
    from packflow_core.crystal.crystal import Crystal

    def make(index: int, status: str = Status.OK, reason: str = "", attempt: int = 1, **columns):
        rng = np.random.default_rng(index)
        crystal = Crystal(
            np.array([6, 8]), rng.uniform(0, 3, (2, 3)), np.diag(rng.uniform(5, 6, 3)), 1
        )
        row = {
            "candidate_id": f"x-{index:06d}", "index": index, "campaign": "single", "target": "x",
            "method": "stub", "seed": 0, "status": str(status), "reason": reason, "detail": "",
            "attempt": attempt, "wall_s": 0.5, "stage_key": "0" * 64,
            **crystal_columns(crystal),
        }  # fmt: skip
        return {**row, **columns}

    return make


@pytest.fixture
def stub_generator(monkeypatch):
    """A generator that draws one carbon and one oxygen in a box, quickly and reproducibly."""
    from packflow_core.crystal.crystal import Crystal
    from packflow_core.stages import generate as module

    calls = []

    def generate(indices, *, smiles, z_values, seed, target, generator, params):
        calls.append(list(indices))
        rows = []
        for index in indices:
            z = z_values[index % len(z_values)]
            rng = np.random.default_rng([seed, index])
            crystal = Crystal(
                np.tile([6, 8], z), rng.uniform(0, 9, (2 * z, 3)), np.diag([9.0, 10.0, 11.0]), z
            )
            status = Status.REJECTED if index % 5 == 4 else Status.OK
            reason = "bad_cell" if status == Status.REJECTED else ""
            rows.append(
                {
                    "candidate_id": f"{target}-z{z}-{index:06d}", "index": index,
                    "status": str(status), "reason": reason, "detail": "",
                    **crystal_columns(crystal),
                }
            )  # fmt: skip
        return rows

    def identity(name):
        return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}

    monkeypatch.setattr(module, "generate", generate)
    monkeypatch.setattr(module, "generator_identity", identity)
    return calls
