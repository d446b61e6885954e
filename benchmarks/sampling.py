"""How fast the sampler is: ratios on one processor, each measured side by side in one run.

    python benchmarks/sampling.py encoder   official-layout weights against torch's own encoder
    python benchmarks/sampling.py open      the shipped model: this path, plain modules, bfloat16
    python benchmarks/sampling.py memory    peak memory against the number of candidates
    python benchmarks/sampling.py calls     the shipped model end to end, by schedules
    python benchmarks/sampling.py compile   torch.compile against the path that is taken

`all` (the default) does everything but `compile`, which needs a C++ compiler. What samples are
worth is measured by sampling_quality.py. The official layout has random weights, which cost as
much as trained ones. The yardstick is the forward pass of a `torch.nn.TransformerEncoder` of the
same width, heads, layers, feed-forward width and number of tokens, once with the network's own
activation, GELU(tanh), and once with the exact GELU, for which PyTorch has a fused kernel; both
are pre-norm, in evaluation mode, without gradients, mask or bias. The sampler makes that many
passes a step and everything else on top. Times are those of the process, turns are taken, and
ratios are medians of pairs. `--json FILE` writes the numbers.
"""

from __future__ import annotations

import os

# Before numpy: one thread is what can be compared on a shared machine.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import nn

from packflow_core.chem.molecule import Molecule
from packflow_core.model.checkpoint import load_model
from packflow_core.model.official import OfficialConfig, OfficialPackFlow
from packflow_core.model.open_model import OpenPackFlow
from packflow_core.model.sampler import Sampler, Schedule, block_size

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
SIZES = {
    "2M": OfficialConfig(256, 8, 4, 512),
    "20M": OfficialConfig(320, 8, 12, 1280),
    "60M": OfficialConfig(640, 10, 12, 2560),
}
#: Euler steps of one turn; noise and set-up weigh little beside them, as in a real run.
STEPS = {"2M": 10, "20M": 4, "60M": 2}
#: Candidates of one block of the sampler.
CANDIDATES = 16
OLD = Schedule(30, "euler", 1.5, (0.7, 0.6, 0.5, 0.4, 0.3, 0.2), 10)
SCHEDULES = {
    "30 Euler + 6 x 10": OLD,
    "8 AB2 + 6 x 2": Schedule(8, "ab2", 1.0, OLD.restarts, 2),
    "30 Euler": Schedule(30, "euler", 1.5),
    "8 AB2": Schedule(8, "ab2", 1.0),
}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = {
        "encoder": encoder, "open": open_model, "memory": memory, "calls": calls,
        "compile": compiled,
    }  # fmt: skip
    parser.add_argument("part", nargs="?", default="all", choices=["all", *parts])
    parser.add_argument("--rounds", type=int, default=9, help="turns that each contestant has")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.child:
        print(_peak_of(args.child[0], int(args.child[1])))
        return
    chosen = {k: v for k, v in parts.items() if args.part in ("all", k)}
    if args.part == "all":
        del chosen["compile"]
    found: dict[str, Any] = {"torch": torch.__version__}
    with torch.no_grad():
        for name, part in chosen.items():
            found[name] = part(args.rounds)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def encoder(rounds: int) -> list[dict[str, Any]]:
    """Euler steps of the sampler against as many forward passes of an encoder."""
    print("official layout, 16 candidates: CPU time over that of the encoder, equal steps")
    print(
        f"{'size':5}{'atoms':>6}{'GELU(tanh)':>12}{'fused GELU':>12}{'candidates/s, 50 steps':>24}"
    )
    lines = []
    for size, config in SIZES.items():
        for z in (2, 4):
            sampler = Sampler(OfficialPackFlow(config), Molecule.from_smiles(ASPIRIN))
            atoms, steps = z * sampler.molecule.n_heavy, STEPS[size]
            assert block_size(atoms) == CANDIDATES
            tokens = torch.randn(CANDIDATES, atoms, config.d_model)
            own = _encoder(config, lambda x: F.gelu(x, approximate="tanh"))
            fused = _encoder(config, "gelu")
            times = compare(
                {
                    "sampler": _sampling(sampler, z, Schedule(steps)),
                    "own": lambda e=own, t=tokens, s=steps: [e(t) for _ in range(s)],
                    "fused": lambda e=fused, t=tokens, s=steps: [e(t) for _ in range(s)],
                },
                rounds if size != "60M" else max(3, rounds // 2),
            )
            line = {
                "size": size,
                "atoms": atoms,
                "over_own": ratio(times, "sampler", "own"),
                "over_fused": ratio(times, "sampler", "fused"),
                "candidates_per_s": CANDIDATES / (statistics.median(times["sampler"]) / steps * 50),
            }
            lines.append(line)
            print(
                f"{size:5}{atoms:6}{line['over_own']:12.2f}{line['over_fused']:12.2f}"
                f"{line['candidates_per_s']:24.2f}"
            )
    return lines


def open_model(rounds: int) -> list[dict[str, Any]]:
    """One Euler step of the shipped model: fast path, plain modules, bfloat16."""
    print("\npackflow-open, 16 candidates, one step: CPU time over that of plain modules")
    print(f"{'atoms':>6}{'block':>6}{'float32':>9}{'bfloat16':>9}")
    model, molecule = load_model("packflow-open").model, Molecule.from_smiles(ASPIRIN)
    lines = []
    for z in (2, 4, 8, 15):
        fast, plain = Sampler(model, molecule), Sampler(model, molecule)
        plain._trunk = model.trunk
        contestants = {"fast": fast, "plain": plain, "bf16": Sampler(model, molecule, bf16=True)}
        times = compare(
            {name: _sampling(s, z, Schedule(1)) for name, s in contestants.items()}, rounds
        )
        atoms = z * molecule.n_heavy
        line = {
            "atoms": atoms,
            "block": block_size(atoms),
            "fast": ratio(times, "fast", "plain"),
            "bf16": ratio(times, "bf16", "plain"),
        }
        lines.append(line)
        print(f"{atoms:6}{line['block']:6}{line['fast']:9.2f}{line['bf16']:9.2f}")
    return lines


def memory(rounds: int) -> list[dict[str, Any]]:
    """Peak memory of fresh processes that sample few or many candidates in one call."""
    del rounds
    numbers = (0, 16, 64, 256)
    print("\npeak memory of the process in MB, 104 heavy atoms, candidates in one call")
    print(f"{'model':10}" + "".join(f"{n:>8}" for n in numbers))
    lines = []
    for model in ("2M", "20M", "open"):
        peaks = []
        for n in numbers:
            command = [sys.executable, __file__, "--child", model, str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout.split()[-1]))
        lines.append({"model": model, "candidates": numbers, "peak_MB": peaks})
        print(f"{model:10}" + "".join(f"{p:8.0f}" for p in peaks))
    return lines


def calls(rounds: int) -> list[dict[str, Any]]:
    """Whole samples of the shipped model by schedule; mending of molecules included."""
    print("\npackflow-open, aspirin Z = 4, end to end")
    print(f"{'schedule':20}{'calls':>6}{'time':>7}   (of the first)")
    sampler = Sampler(load_model("packflow-open").model, Molecule.from_smiles(ASPIRIN))
    contestants = {name: _sampling(sampler, 4, s) for name, s in SCHEDULES.items()}
    times = compare(contestants, max(3, rounds // 3))
    lines = []
    first = next(iter(SCHEDULES))
    for name, schedule in SCHEDULES.items():
        share = ratio(times, name, first)
        lines.append({"schedule": name, "calls": schedule.network_calls, "time": share})
        print(f"{name:20}{schedule.network_calls:6}{share:7.3f}")
    return lines


def compiled(rounds: int) -> list[dict[str, Any]]:
    """One Euler step with the network compiled for its shape, against the path that is taken."""
    print("\ntorch.compile, 16 candidates, one step: CPU time over that of the path taken")
    print(f"{'model':7}{'atoms':>6}{'compiled':>9}{'first step, s':>14}")
    molecule = Molecule.from_smiles(ASPIRIN)
    lines = []
    for name in ("2M", "20M", "open"):
        for z in (2, 4):
            torch._dynamo.reset()
            network = _network(name)
            taken, other = Sampler(network, molecule), Sampler(_network(name), molecule)
            other.model.load_state_dict(network.state_dict())
            other._trunk = None
            forward = torch.compile(other.model.forward, dynamic=False)
            other.model.forward = forward  # type: ignore[method-assign]
            begun = time.perf_counter()
            _sampling(other, z, Schedule(1))()
            begun = time.perf_counter() - begun
            times = compare(
                {k: _sampling(s, z, Schedule(4)) for k, s in (("a", taken), ("b", other))}, rounds
            )
            atoms = z * molecule.n_heavy
            share = ratio(times, "b", "a")
            lines.append({"model": name, "atoms": atoms, "over_taken": share, "first_s": begun})
            print(f"{name:7}{atoms:6}{share:9.2f}{begun:14.1f}")
    return lines


def compare(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each contestant in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begun = time.process_time()
            run()
            if number:
                times[name].append(time.process_time() - begun)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Median over rounds of time of `one` over time of `other`."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def _sampling(sampler: Sampler, z: int, schedule: Schedule) -> Callable[[], object]:
    return lambda: sampler.sample(z, range(CANDIDATES), seed=0, schedule=schedule)


def _encoder(config: OfficialConfig, activation: str | Callable[[Any], Any]) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        config.d_model, config.nhead, config.dim_feedforward, 0.0, activation,
        batch_first=True, norm_first=True,
    )  # fmt: skip
    norm = nn.LayerNorm(config.d_model)
    return nn.TransformerEncoder(layer, config.num_layers, norm, enable_nested_tensor=False).eval()


def _network(name: str) -> OfficialPackFlow | OpenPackFlow:
    return load_model("packflow-open").model if name == "open" else OfficialPackFlow(SIZES[name])


def _peak_of(model: str, n: int) -> float:
    """Peak resident memory in MB of this process after sampling n candidates.

    Of a new program alone (VmHWM of Linux): what getrusage tells includes the parent's.
    """
    sampler = Sampler(_network(model), Molecule.from_smiles(ASPIRIN))
    if n:
        sampler.sample(8, range(n), seed=0, schedule=Schedule(1))
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
