import os
import subprocess
import sys

import pytest

from packflow_core import devices
from packflow_core.devices import find_gpus, make_seats, usable_cpus
from packflow_core.errors import UserInputError
from packflow_core.workers import Seat

UUIDS = [f"GPU-{k}a1b2c3d-0000-1111-2222-33334444555{k}" for k in range(4)]
PART = "MIG-77777777-8888-5999-aaaa-bbbbbbbbbbbb"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with as many GPUs as wanted, a driver's folder and eight CPUs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setattr(devices, "_PROC", tmp_path / "gpus")
    monkeypatch.setattr(devices, "_DEV", tmp_path / "dev")
    monkeypatch.setattr(devices, "usable_cpus", lambda: 8)
    monkeypatch.setattr(devices.metadata, "version", lambda name: "2.13.0")

    def smi(script):
        path = folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def install(gpus, divided=None):
        lines = []
        for k in range(gpus):
            lines.append(f"GPU {k}: NVIDIA H200 (UUID: {UUIDS[k]})")
            if k == divided:
                lines.append(f"  MIG 1g.18gb     Device  0: (UUID: {PART})")
        listing = "\n".join(lines) or "No devices found."
        # nothing but the list is known to this one
        smi(f'[ "$1" = "-L" ] || exit 2\n/bin/cat <<END\n{listing}\nEND')

    install.smi = smi
    install.folder = tmp_path
    return install


# -- GPUs --------------------------------------------------------------------------------------
def test_no_driver_no_gpus(machine):
    assert find_gpus() == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nvidia_smi_is_believed(machine, count):
    machine(count)
    assert find_gpus() == [f"cuda:{k}" for k in range(count)]


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("", 0), (" ", 0), ("-1", 0), ("NoDevFiles", 0), ("GPU-", 1), ("GPU-ffff", 0),
        ("2", 1), ("2,0", 2), ("0, 1, 2", 3), ("0,-1,1", 1), ("0,3,1", 1),
        (UUIDS[1], 1), (f"{UUIDS[1][:10]},{UUIDS[0]}", 2), (PART, 1), ("MIG-12345678", 0),
    ],
)  # fmt: skip
def test_cuda_visible_devices_is_respected(machine, monkeypatch, visible, count):
    machine(3, divided=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpus() == [f"cuda:{k}" for k in range(count)]


def test_a_divided_gpu_counts_once(machine):
    machine(2, divided=0)
    assert find_gpus() == ["cuda:0", "cuda:1"]


def test_a_broken_driver_means_no_gpus(machine):
    driver_folder(machine.folder, minors=[0], files=[0])
    machine.smi("echo 'NVIDIA-SMI has failed because it could not talk to the driver.'; exit 9")
    assert find_gpus() == []


def driver_folder(folder, minors, files):
    for k, minor in enumerate(minors):
        gpu = folder / "gpus" / f"0000:{k:02x}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(
            f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 30\nGPU UUID: \t {UUIDS[k]}\n"
            f"Video BIOS: \t 96.00.89\nDevice Minor: \t {minor}\n"
        )
    (folder / "dev").mkdir()
    for minor in files:
        (folder / "dev" / f"nvidia{minor}").touch()


def test_without_nvidia_smi_the_driver_is_asked_and_closed_devices_are_left_out(
    machine, monkeypatch
):
    driver_folder(machine.folder, minors=[2, 0, 1], files=[0, 1])
    assert find_gpus() == ["cuda:0", "cuda:1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS[2])
    assert find_gpus() == ["cuda:0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS[0])  # its device file is missing
    assert find_gpus() == []


def test_an_nvidia_smi_that_hangs_is_not_waited_for(machine, monkeypatch):
    driver_folder(machine.folder, minors=[0], files=[0])
    machine.smi("exec /bin/sleep 60")
    monkeypatch.setattr(devices, "_SMI_TIMEOUT_S", 0.2)
    assert find_gpus() == ["cuda:0"]


def test_pytorch_is_not_loaded():
    code = (
        "import sys; from packflow_core.devices import find_gpus, make_seats; "
        "make_seats(2, 'auto', True); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


# -- seats -------------------------------------------------------------------------------------
CPU = Seat()


def gpus(*numbers, threads):
    return [Seat(f"cuda:{k}", threads) for k in numbers]


@pytest.mark.parametrize(
    ("workers", "device", "gpu", "seats"),
    [
        (None, "cpu", False, [CPU] * 8),
        (None, "cpu", True, [CPU] * 8),
        (3, "cpu", True, [CPU] * 3),
        (3, "auto", False, [CPU] * 3),
        (None, "auto", False, [CPU] * 8),
        (None, "auto", True, gpus(0, 1, 2, threads=2)),
        (5, "auto", True, gpus(0, 1, 2, threads=2)),
        (None, "cuda", True, gpus(0, 1, 2, threads=2)),
        (None, "CUDA", True, gpus(0, 1, 2, threads=2)),
        (None, "cuda:1", True, gpus(1, threads=8)),
        (None, "cuda:2, cuda:0", True, gpus(2, 0, threads=4)),
        (2, "cuda,cpu", True, gpus(0, 1, 2, threads=2) + [CPU] * 2),
        (2, "cpu,cuda:1", True, gpus(1, threads=6) + [CPU] * 2),
        (8, "cuda,cpu", True, gpus(0, 1, 2, threads=1) + [CPU] * 8),
        (None, "cuda,cpu", True, gpus(0, 1, 2, threads=1) + [CPU] * 5),
    ],
)
def test_seats(machine, workers, device, gpu, seats):
    machine(3)
    assert make_seats(workers, device, gpu) == seats


def test_more_gpus_than_cpus(machine, monkeypatch):
    machine(4)
    monkeypatch.setattr(devices, "usable_cpus", lambda: 2)
    assert make_seats(None, "auto", True) == gpus(0, 1, 2, 3, threads=1)
    assert make_seats(None, "cuda,cpu", True) == [*gpus(0, 1, 2, 3, threads=1), CPU]


def test_auto_without_a_gpu_is_the_cpus(machine, monkeypatch):
    assert make_seats(2, "auto", True) == [CPU] * 2
    machine(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert make_seats(2, "auto", True) == [CPU] * 2


def test_a_build_of_pytorch_without_cuda_leaves_the_gpu_alone(machine, monkeypatch, caplog):
    machine(1)
    monkeypatch.setattr(devices.metadata, "version", lambda name: "2.13.0+cpu")
    assert make_seats(2, "auto", True) == [CPU] * 2
    assert "built without CUDA" in caplog.text
    with pytest.raises(UserInputError, match="built without CUDA"):
        make_seats(2, "cuda", True)


@pytest.mark.parametrize(
    ("installed", "workers", "device", "gpu", "words"),
    [
        (3, 0, "cpu", True, "0 workers"),
        (3, -2, "auto", True, "-2 workers"),
        (3, 2, "tpu", True, "Unknown device 'tpu'"),
        (3, 2, "", True, "Unknown device ''"),
        (3, 2, "auto,cpu", True, "Unknown device 'auto,cpu'"),
        (3, 2, "cuda:", True, "Unknown device 'cuda:'"),
        (3, 2, "cuda:-1", True, "Unknown device 'cuda:-1'"),
        (3, 2, "cuda", False, "cannot use a GPU.*choose cpu or auto"),
        (3, 2, "cuda,cpu", False, "cannot use a GPU"),
        (3, 2, "cuda:3", True, "no GPU 'cuda:3'.*found: cuda:0, cuda:1, cuda:2"),
        (3, 2, "cuda:0,cuda:0", True, "twice"),
        (3, 2, "cuda,cuda:1", True, "twice"),
        (3, 2, "cpu,cpu", True, "twice"),
        (0, 2, "cuda", True, "No GPU was found.*nvidia-smi -L.*choose cpu or auto"),
        (0, 2, "cuda:0,cpu", True, "No GPU was found"),
    ],
)
def test_wrong_wishes_are_refused_in_one_sentence(machine, installed, workers, device, gpu, words):
    machine(installed)
    with pytest.raises(UserInputError, match=words) as caught:
        make_seats(workers, device, gpu)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_hidden_gpu_is_told_from_a_missing_one(machine, monkeypatch):
    machine(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(UserInputError, match="CUDA_VISIBLE_DEVICES=-1"):
        make_seats(1, "cuda", True)


def test_usable_cpus_are_those_of_this_process():
    mine = os.sched_getaffinity(0)
    assert usable_cpus() == len(mine)
    code = "from packflow_core.devices import usable_cpus; print(usable_cpus())"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(mine)}),
    )  # fmt: skip
    assert shown.stdout.strip() == "1"


# -- one seat ----------------------------------------------------------------------------------
def test_the_environment_of_a_seat(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    cpu = Seat("cpu", 3).environment()
    assert (cpu["PACKFLOW_DEVICE"], cpu["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    assert {cpu[f"{name}_NUM_THREADS"] for name in ("OMP", "OPENBLAS", "MKL")} == {"3"}
    gpu = Seat("cuda:2").environment()
    assert (gpu["PACKFLOW_DEVICE"], gpu["CUDA_VISIBLE_DEVICES"]) == ("cuda", "2")
    assert gpu["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_seat_takes_its_entry_of_the_parents_list(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"5, {UUIDS[0]},3")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    seen = [Seat(f"cuda:{k}").environment()["CUDA_VISIBLE_DEVICES"] for k in range(3)]
    assert seen == ["5", UUIDS[0], "3"]
    # the parent's numbers mean what they mean to the parent
    assert "CUDA_DEVICE_ORDER" not in Seat("cuda:0").environment()
    with pytest.raises(ValueError, match="cuda:3"):
        Seat("cuda:3").environment()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match="cuda:0"):
        Seat("cuda:0").environment()


@pytest.mark.parametrize(
    "arguments", [("cuda",), ("cuda:x",), ("gpu",), ("cpu:0",), ("",), ("cpu", 0)]
)
def test_a_seat_that_makes_no_sense(arguments):
    with pytest.raises(ValueError, match="seat"):
        Seat(*arguments)
