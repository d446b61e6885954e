"""Asks MPI who this process is: its rank, the number of ranks, and the library that said so.

Run by each rank as a process of its own, which begins and ends MPI properly and is gone before the
work starts: a process that has no part in MPI any more can die without the others being told, and
cannot hang in it. Needs mpi4py and the standard library. The answer is a line of JSON.
"""

from __future__ import annotations

import json
import os
import re


def main() -> None:
    """Print the answer in one piece, for a launcher mixes what its ranks print."""
    from mpi4py import MPI

    answer = {
        "rank": MPI.COMM_WORLD.Get_rank(),
        "size": MPI.COMM_WORLD.Get_size(),
        # Open MPI goes on about its packager after a comma
        "library": " ".join(re.split(r"[\n,\0]", MPI.Get_library_version())[0].split()),
    }
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
