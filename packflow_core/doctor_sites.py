"""Checks of `csp doctor` that look outside the package: GPUs, gated weights, servers, disks.

Each returns a verdict and a sentence, as those of `packflow_core.doctor`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

from packflow_core.errors import UserInputError

Verdict = Literal["ok", "warn", "fail"]

_TIMEOUT_S = 10.0
_SMI = (
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,memory.free,driver_version",
    "--format=csv,noheader,nounits",
)
#: Free memory of a GPU below which batches of crystals become small, GiB.
_LOW_GPU_GIB = 8.0
_LOW_DISK_GB = 2.0
#: Answers of a server that wants to know who asks.
_UNKNOWN_PERSON = (401, 403)


def gpus() -> tuple[Verdict, str]:
    """NVIDIA GPUs, their memory, and whether PyTorch can use them."""
    from packflow_core.devices import find_gpus

    usable = find_gpus()
    try:
        told = subprocess.run(
            _SMI, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "ok", "none; engines compute on the CPU"
    cards, low, driver = [], False, ""
    for line in told.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 5:
            continue
        index, name, total, free, driver = fields
        if total.isdecimal() and free.isdecimal():
            low |= int(free) / 1024 < _LOW_GPU_GIB
            memory = f"{int(free) / 1024:.0f} of {int(total) / 1024:.0f} GiB free"
        else:  # divided cards do not tell
            memory = "memory unknown"
        cards.append(f"{index}: {name}, {memory}")
    if not cards:
        return "ok", "none; engines compute on the CPU"
    found = f"{'; '.join(cards)}; driver {driver}"
    if len(usable) < len(cards):
        found += f"; {len(usable)} visible (CUDA_VISIBLE_DEVICES)"
    if _torch_lacks_cuda():
        return "warn", f"{found}; but PyTorch is built without CUDA, so they stay idle"
    if low:
        return "warn", f"{found}; little is free, another process may be using it"
    return "ok", found


def uma_access(name: str, repository: str) -> tuple[Verdict, str]:
    """Whether Hugging Face would hand out gated weights that are not on this machine."""
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if get_token() is None:
        return "ok", "no token of Hugging Face (HF_TOKEN or 'hf auth login')"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "ok", "a token of Hugging Face, and HF_HUB_OFFLINE forbids to use it"
    url = hf_hub_url(repository, f"{name}.pt", subfolder="checkpoints")
    try:
        get_hf_file_metadata(url, timeout=_TIMEOUT_S)
    except (GatedRepoError, RepositoryNotFoundError):
        return "warn", f"the token of Hugging Face does not open {repository}; accept its licence"
    except Exception as error:  # network libraries raise what they like
        return "warn", f"a token, but Hugging Face does not answer ({type(error).__name__})"
    return "ok", f"the token of Hugging Face opens {repository}"


def disk(folder: Path) -> tuple[Verdict, str]:
    """Space, rights and locks where runs will be written."""
    from packflow_core.store.lock import RunLock
    from packflow_core.store.object_mirror import SCRATCH_VARIABLE

    free = shutil.disk_usage(folder).free / 1e9
    told = f"{free:.1f} GB free at {folder}"
    scratch = os.environ.get(SCRATCH_VARIABLE)
    if scratch and Path(scratch).is_dir():
        told += f", {shutil.disk_usage(scratch).free / 1e9:.1f} GB at {SCRATCH_VARIABLE}={scratch}"
    if not os.access(folder, os.W_OK):
        return "warn", f"{told}; {folder} is not writable, give --out"
    try:
        trial = tempfile.TemporaryDirectory(prefix=".csp-doctor-", dir=folder)
        with trial, RunLock(Path(trial.name)):
            pass
    except UserInputError:
        return "fail", f"{told}; the file system cannot lock files, so give --out on another"
    return ("ok" if free >= _LOW_DISK_GB else "warn"), f"{told}; files can be locked"


def prefect_server(url: str) -> tuple[Verdict, str]:
    """The server that records runs: its version and work pools."""
    here = metadata.version("prefect")
    base = url.rstrip("/")
    try:
        there = str(_ask(f"{base}/admin/version"))
        pools = _ask(f"{base}/work_pools/filter", {})
    except urllib.error.HTTPError as error:
        if error.code in _UNKNOWN_PERSON:
            return "ok", f"{here}; the server at {url} answers, and asks for a password"
        return "warn", f"{here}; the server at {url} answers with error {error.code}"
    except (OSError, ValueError) as error:
        return "fail", f"PREFECT_API_URL is {url}, but nothing answers there ({error})"
    names = ", ".join(f"{p['name']} ({str(p.get('status', '?')).lower()})" for p in pools)
    told = f"{here}; the server at {url} is {there}; work pools: {names or 'none'}"
    if _release(here) != _release(there):
        return "warn", f"{told}; versions differ, install prefect=={there} or renew the server"
    return "ok", told


def optional(name: str, module: str, install: str) -> tuple[Verdict, str]:
    """A package that some ways of working need."""
    if util.find_spec(module) is None:
        return "ok", f"optional, not installed; {install}"
    return "ok", f"{name} {metadata.version(name)}"


def object_store() -> tuple[Verdict, str]:
    """What runs at `s3://` need."""
    from packflow_core.store.object_store import INSTALL

    verdict, told = optional("boto3", "boto3", INSTALL)
    if "not installed" in told:
        return verdict, told
    import boto3

    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    where = f"server {address}" if address else "servers of AWS"
    known = "AWS_ACCESS_KEY_ID" in os.environ or boto3.session.Session().profile_name != "default"
    return verdict, f"{told}; {where}; credentials {'found' if known else 'not set'}"


def _ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return json.load(answer)


def _release(version: str) -> tuple[str, ...]:
    """Major and minor number: the interface of the server changes with them."""
    return tuple(version.split(".")[:2])


def _torch_lacks_cuda() -> bool:
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return True
