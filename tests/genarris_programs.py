"""Stand-ins for `gnrs` and `mpirun`, which replay recorded runs or fail as asked."""

import sys
import textwrap
from pathlib import Path

from packflow_core.baselines import genarris_program

RECORDED = Path(__file__).parent / "data" / "genarris"

MPIRUN = """
import os, signal, subprocess, sys
assert sys.argv[1] == "-np"
child = subprocess.Popen(sys.argv[3:], env=dict(os.environ, RANKS=sys.argv[2]))
def end(*_):
    if os.environ["MODE"] != "deaf":
        child.terminate()
signal.signal(signal.SIGTERM, end)
code = child.wait()
sys.exit(15 if code < 0 else code)
"""

# Replays the recorded run of urea, or does what MODE says.
GNRS = """
import os, pathlib, shutil, subprocess, sys, time
assert sys.argv[1:] == ["--config", "ui.conf"] and os.path.isfile("ui.conf")
recorded, mode = pathlib.Path(os.environ["RECORDED"]), os.environ["MODE"]
print("Using", 1 if mode == "other mpi" else os.environ["RANKS"], "parallel tasks.", flush=True)
if mode in ("hang", "deaf", "orphan"):
    # a rank in a session of its own that is deaf to SIGTERM, like those of some launchers
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    rank = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
    pathlib.Path("pids").write_text(f"{os.getpid()} {rank.pid}")
if mode in ("hang", "deaf"):
    pathlib.Path("tmp/generation").mkdir(parents=True)
    shutil.copy(recorded / "geometry.out", "tmp/generation/geometry.out")
if mode in ("hang", "deaf", "other mpi"):
    print("Total compatible space groups = 26\\nAttempting to generate 10 structures in spacegroup"
          " number 5....", flush=True)
    time.sleep(600)
if mode == "crash":
    print("no such thing", file=sys.stderr)
    sys.exit(3)
assert os.environ["OMP_NUM_THREADS"] == "1" and "PMI_RANK" not in os.environ
for line in (recorded / "stdout.log").read_text().splitlines():
    print(line, flush=True)
    if "Attempting" in line:
        time.sleep(0.04)
# the structures are rigid copies of the recorded molecule, not of the one in mol.xyz
shutil.copy(recorded / "mol.xyz", "mol.xyz")
pathlib.Path("structures/generation").mkdir(parents=True)
shutil.copy(recorded / "structures.json", "structures/generation/structures.json")
"""


def script(path, text):
    path.write_text(f"#!{sys.executable} -S\n" + textwrap.dedent(text))
    path.chmod(0o755)


def install(folder, monkeypatch, mode="replay"):
    """Put the stand-ins into a new folder, and nothing else of Genarris' in sight."""
    folder.mkdir()
    script(folder / "mpirun", MPIRUN)
    script(folder / "gnrs", GNRS)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("MODE", mode)
    monkeypatch.setenv("RECORDED", str(RECORDED / "plain"))
    monkeypatch.setenv("PMI_RANK", "1")
    for name in ("GENARRIS_PYTHON", "GENARRIS_MPIRUN"):
        monkeypatch.delenv(name, raising=False)
    # the fake's interpreter knows no gnrs, and need not be asked
    monkeypatch.setattr(genarris_program, "_version", lambda gnrs: "3.1.4")
    return folder
