"""Running the real command in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_pool import workers  # noqa: F401

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub_csp.py")


class Csp:
    """Starts `csp` with the stand-in generator.

    Attributes:
        temporary: folder of its temporary files, to see what it leaves behind.
    """

    def __init__(self, temporary):
        self.temporary = temporary

    def start(self, *arguments, env=None):
        """A process that was started, with pipes for its output."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("PREFECT_API_URL", None)
        return subprocess.Popen(
            [sys.executable, str(STUB), *map(str, arguments)],
            env={**environment, **(env or {})}, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *arguments, env=None, timeout=600):
        """Exit code, standard output and standard error of a command."""
        process = self.start(*arguments, env=env)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    def document(self, *arguments, **kwargs):
        """The JSON document of a command that succeeds."""
        code, out, err = self(*arguments, "--json", **kwargs)
        assert code == 0, err
        return json.loads(out)


@pytest.fixture(scope="session")
def csp(tmp_path_factory):
    return Csp(tmp_path_factory.mktemp("tmp"))
