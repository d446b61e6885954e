"""How long the dashboard takes to open a store, to look again, and to draw: no browser.

    python benchmarks/dashboard.py --n 100000
    python benchmarks/dashboard.py --n 10000 --folder /tmp/store

Writes a synthetic run of that many candidates (kept when --folder names where), then, in a fresh
process, opens it as the command does and prints seconds: to open it (all five stages, ledger
included), for the second look at an unchanged store, for the look after a new part appeared, and
for the figure of the landscape with all its points. The files lie in the cache of the system, as
they do for a campaign at work. Exit code 1 when opening takes longer than --limit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "dashboard")]


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each step, in this process."""
    import plotly.io

    from dashboard.figures import landscape_figure
    from dashboard.landscape import make_landscape
    from dashboard.settings import Settings
    from dashboard.store import Store
    from dashboard.theme import LIGHT

    found: dict[str, float] = {}

    def step(name: str, began: float) -> float:
        found[name] = time.perf_counter() - began
        return time.perf_counter()

    t, work = time.perf_counter(), time.process_time()
    store = Store(Settings((folder,)))
    store.refresh()
    runs = store.runs()
    t = step("open", t)
    found["open, processor time"] = time.process_time() - work
    store.refresh()
    store.runs()
    t = step("look again", t)
    landscape = make_landscape(runs)
    t = step("landscape", t)
    figure = landscape_figure(landscape, [run.id for run in runs], LIGHT, window=1e9)
    text = plotly.io.to_json(figure, validate=False)
    t = step("figure as JSON", t)
    stage = runs[0].store.stage("rank").folder
    part = next(iter(stage.glob("part-*.parquet")))
    shutil.copy(part, part.with_name(part.name.replace(".parquet", "b.parquet")))
    t = time.perf_counter()
    store.refresh()
    store.runs()
    step("look after a new part", t)
    part.with_name(part.name.replace(".parquet", "b.parquet")).unlink()
    found["candidates"] = sum(run.n for run in runs)
    found["points"] = len(landscape)
    found["figure MB"] = len(text) / 1e6
    return found


def main() -> int:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100_000, help="candidates")
    parser.add_argument("--part", type=int, default=500, help="candidates per Parquet file")
    parser.add_argument("--folder", type=Path, help="keep the store here; a temporary one if not")
    parser.add_argument("--limit", type=float, default=3.0, help="seconds that opening may take")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return 0
    with tempfile.TemporaryDirectory(prefix="packflow-dashboard-") as temporary:
        folder = arguments.folder or Path(temporary) / "store"
        if not folder.exists():
            from synthetic_campaign import write_campaign

            began = time.perf_counter()
            write_campaign(
                folder / "synthetic" / "urea" / "random", arguments.n, part=arguments.part
            )
            print(f"wrote {arguments.n} candidates in {time.perf_counter() - began:.1f} s")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        files = len(list(folder.rglob("part-*.parquet")))
        print(f"{size / 1e6:.0f} MB in {files} Parquet files")
        command = [sys.executable, __file__, "--measure", str(folder)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for name, value in found.items():
        print(
            f"{name:24s} {value:.3f}"
            if name not in ("candidates", "points")
            else f"{name:24s} {value:.0f}"
        )
    return int(found["open"] > arguments.limit)


if __name__ == "__main__":
    sys.exit(main())
