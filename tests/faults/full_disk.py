"""A run on a disk that is really full, then not; started in a mount namespace of its own.

``python full_disk.py FOLDER FREE``: FOLDER is an empty file system of 4 MB, of which FREE bytes are
left. Prints a line for each step.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
os.environ["PACKFLOW_ALLOW_ENGINES"] = "faulty:*"

if __name__ == "__main__":
    import formaldehyde
    from test_faults import run_all

    from packflow_core.stages import generate, pools
    from packflow_core.store.atomic import StorageFullError

    generate.generate = formaldehyde.generate
    generate.generator_identity = formaldehyde.generator_identity
    disk = Path(sys.argv[1])
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(b"x" * (free - int(sys.argv[2])))
    try:
        run_all(disk / "run")
        print("it fitted")
    except StorageFullError as error:
        print(f"full: {error}")
    ballast.unlink()
    run = run_all(disk / "run")
    print(
        f"after: {[s.attempted for s in run.ledger()]}, pending {[s.pending for s in run.ledger()]}"
    )
    for row in run.stage("relax").rows():
        print("row", row["index"], row["attempt"], repr(row["energy_eV"]))
    pools.close_pools()
