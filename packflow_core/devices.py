"""Where workers compute: the GPUs of this machine, found without loading PyTorch, and the CPUs."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

from packflow_core.errors import UserInputError
from packflow_core.worker_process import Seat

logger = logging.getLogger(__name__)

#: Seconds that nvidia-smi may take; it wakes sleeping GPUs, one after the other.
_SMI_TIMEOUT_S = 20.0
_SMI_LINE = re.compile(r"GPU \d+: .*\(UUID: (\S+)\)")
_SMI_MIG_LINE = re.compile(r"\s+MIG .*\(UUID: (\S+)\)")

#: The driver's own list, one folder for each GPU, and the device files that open it.
_PROC = Path("/proc/driver/nvidia/gpus")
_DEV = Path("/dev")


def usable_cpus() -> int:
    """Processors that this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on this system
        return max(1, os.cpu_count() or 1)


def find_gpus() -> list[str]:
    """NVIDIA GPUs that this process may use, as "cuda:0", "cuda:1"; [] when there is none.

    The numbers count the entries of CUDA_VISIBLE_DEVICES where that is set (as in CUDA, its first
    invalid entry hides the rest), else they are those of nvidia-smi. A GPU that is divided (MIG)
    counts once, its parts count where CUDA_VISIBLE_DEVICES names them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return []
    gpus, parts = _installed()
    if visible is None:
        count = len(gpus)
    else:
        count = 0
        for entry in visible.split(","):
            if not _exists(entry.strip(), gpus, parts):
                break
            count += 1
    return [f"cuda:{number}" for number in range(count)]


def make_seats(workers: int | None, device: str, gpu: bool) -> list[Seat]:
    """Seats of the worker processes for one engine, those on GPUs first.

    Args:
        workers: worker processes on the CPU, one thread each; all usable CPUs when None (less one
            for each GPU's process where there are such processes, too).
        device: "cpu"; "cuda", one process for each GPU; single GPUs, "cuda:0,cuda:2"; both, as in
            "cuda,cpu"; or "auto": the GPUs, or the CPUs where there is no GPU or the engine cannot
            use it. The processes of the GPUs share the threads that the CPU workers leave.
        gpu: whether the engine can use a GPU.

    Raises:
        UserInputError: unknown device, no such GPU, a GPU for an engine that cannot use it, or
            fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise UserInputError(f"{workers} workers cannot work; ask for at least one.")
    names = [name.strip().lower() for name in device.split(",")]
    cpus = usable_cpus()
    if names == ["auto"]:
        chosen = find_gpus() if gpu else []
        if chosen and _torch_lacks_cuda():
            logger.warning("the GPU is left idle: the installed PyTorch is built without CUDA")
            chosen = []
        names = [] if chosen else ["cpu"]
    else:
        chosen = _asked(names, device, gpu)
    beside = 0
    if "cpu" in names:
        beside = max(1, cpus - len(chosen)) if workers is None else workers
    threads = max(1, (cpus - beside) // max(1, len(chosen)))
    return [Seat(name, threads) for name in chosen] + [Seat()] * beside


def _asked(names: list[str], device: str, gpu: bool) -> list[str]:
    """The GPUs that the user asks for by name."""
    for name in names:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise UserInputError(
                f"Unknown device '{device}'; choose auto, cpu, cuda, single GPUs such as "
                "cuda:0,cuda:2, or cuda,cpu for both."
            )
    if names == ["cpu"]:
        return []
    if not gpu:
        raise UserInputError(
            f"The engine cannot use a GPU, so not the device '{device}'; choose cpu or auto."
        )
    if _torch_lacks_cuda():
        raise UserInputError(
            f"The installed PyTorch is built without CUDA, so the device '{device}' cannot be "
            "used; install a build with CUDA or choose cpu."
        )
    found = find_gpus()
    if not found:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = (
            "nvidia-smi -L should list one" if hidden is None else f"CUDA_VISIBLE_DEVICES={hidden}"
        )
        raise UserInputError(
            f"No GPU was found for the device '{device}' ({why}); choose cpu or auto."
        )
    chosen: list[str] = []
    for name in names:
        if name.startswith("cuda:") and name not in found:
            raise UserInputError(
                f"There is no GPU '{name}' (device '{device}'); found: {', '.join(found)}."
            )
        chosen += found if name == "cuda" else [name] if name != "cpu" else []
    if len(set(chosen)) < len(chosen) or names.count("cpu") > 1:
        raise UserInputError(f"The device '{device}' names one of them twice; name each once.")
    return chosen


def _torch_lacks_cuda() -> bool:
    """Whether the installed PyTorch is the build for CPUs alone."""
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


def _installed() -> tuple[list[str], list[str]]:
    """UUIDs of the machine's GPUs, by number, and of the parts of divided ones (MIG)."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SMI_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if isinstance(error, subprocess.TimeoutExpired):
            logger.warning("nvidia-smi does not answer within %g s", _SMI_TIMEOUT_S)
        return _driver_list(), []
    if listing.returncode != 0:  # there is no driver, or it is broken
        logger.info("nvidia-smi: %s", " ".join((listing.stdout + listing.stderr).split()))
        return [], []
    lines = listing.stdout.splitlines()
    gpus = [match[1] for line in lines if (match := _SMI_LINE.match(line))]
    return gpus, [match[1] for line in lines if (match := _SMI_MIG_LINE.match(line))]


def _driver_list() -> list[str]:
    """UUIDs by the driver's list, of those GPUs that have a device file: a container has some."""
    gpus = []
    for path in sorted(_PROC.glob("*/information")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        facts = {
            name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        if (_DEV / f"nvidia{facts.get('Device Minor', '')}").exists():
            gpus.append(facts.get("GPU UUID", ""))
    return gpus


def _exists(entry: str, gpus: list[str], parts: list[str]) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES is a GPU: a number, or the beginning of a UUID."""
    if entry.isdecimal():
        return int(entry) < len(gpus)
    return entry.startswith(("GPU-", "MIG-")) and any(u.startswith(entry) for u in gpus + parts)
