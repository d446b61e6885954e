"""Folders of recorded runs of Genarris 3.1.4, laid out as the program leaves them."""

import json
import shutil
from pathlib import Path

RECORDED = Path(__file__).parents[1] / "data" / "genarris"

UREA = "NC(N)=O"
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def record(folder, returncode, ended="by itself", seconds=26.0):
    text = json.dumps({"returncode": returncode, "ended": ended, "seconds": seconds})
    (folder / "packflow_run.json").write_text(text)


def put(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def plain_run(folder, returncode=0):
    """Urea, Z = 2: 27 structures."""
    for name in ("ui.conf", "mol.xyz", "stdout.log", "Genarris.log"):
        put(RECORDED / "plain" / name, folder / name)
    put(RECORDED / "plain" / "structures.json", folder / "structures/generation/structures.json")
    record(folder, returncode)
    return folder


def press_run(folder):
    """The same structures, pressed; generation was the same to the last digit."""
    plain_run(folder)
    for name in ("ui.conf", "stdout.log", "Genarris.log"):
        put(RECORDED / "rigid_press" / name, folder / name)
    source = RECORDED / "rigid_press" / "structures.json"
    put(source, folder / "structures/symm_rigid_press/structures.json")
    return folder


def killed_run(folder):
    """Aspirin, Z = 4, with the press, ended by SIGTERM during generation."""
    for name in ("ui.conf", "mol.xyz", "stdout.log"):
        put(RECORDED / "killed_midgen" / name, folder / name)
    source = RECORDED / "killed_midgen" / "geometry.out"
    put(source, folder / "tmp/generation/geometry.out")
    record(folder, 15)
    return folder


def failed_run(folder, case, returncode):
    """One of the recorded failures."""
    for name in ("ui.conf", "stdout.log", "Genarris.log"):
        put(RECORDED / "failures" / f"{case}.{name}", folder / name)
    record(folder, returncode)
    return folder


def edit_structures(folder, change, task="generation"):
    """Let `change` edit the dictionary of a structures.json."""
    path = folder / "structures" / task / "structures.json"
    data = json.loads(path.read_text())
    change(data)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in data.items())
    path.write_text("{\n" + lines + "\n}")
