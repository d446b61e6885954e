"""A run on a disk that is really full, then not; started in a mount namespace of its own.

``python full_disk.py FOLDER``: FOLDER is an empty file system of 4 MB. Prints one line a step.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
os.environ["PACKFLOW_ALLOW_ENGINES"] = "faulty:*"

if __name__ == "__main__":
    import formaldehyde
    from test_faults import run_all

    from packflow_core.stages import chunk, generate
    from packflow_core.stages.run_store import RunStore
    from packflow_core.store.atomic import StorageFullError

    generate.generate = formaldehyde.generate
    generate.generator_identity = formaldehyde.generator_identity
    disk = Path(sys.argv[1])
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(b"x" * (free - int(sys.argv[2])))
    try:
        run_all(disk / "run")
    except StorageFullError:
        done = RunStore(disk / "run").attempts("relax") if (disk / "run/run.json").exists() else {}
    ballast.unlink()
    run = run_all(disk / "run")
    for _row in run.stage("relax").rows():
        pass
    chunk.close_pools()
