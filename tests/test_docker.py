"""The images and the compose file: no container engine is needed to see that their parts fit."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from packflow_core import __version__

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = dict(
    zip(
        re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.M),
        re.split(r"^FROM .*$", DOCKERFILE, flags=re.M)[1:],
        strict=True,
    )
)


def test_there_is_an_image_for_cpus_and_one_for_gpus():
    assert set(TARGETS) == {"base", "cpu", "cuda"}
    assert "/whl/cpu" in TARGETS["cpu"]
    assert "/whl/cu" in TARGETS["cuda"]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_what_is_copied_exists_and_every_package_is_copied(target):
    copied = [
        source
        for line in re.findall(r"^COPY (.*)$", TARGETS[target], re.M)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
    # What comes after the installation is in no package.
    installed = TARGETS[target].index('pip install ".[')
    assert TARGETS[target].rindex("\nCOPY ") < installed
    patterns = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {p.rstrip("*.") for p in patterns} <= set(copied)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_versions_are_those_of_the_project(target):
    needed = {
        requirement.name: requirement.specifier
        for requirement in map(Requirement, PROJECT["project"]["dependencies"])
    }
    (torch,) = re.findall(r"torch==([\d.]+)", TARGETS[target])
    assert needed["torch"].contains(torch)
    assert f"torch=={torch}" in (ROOT / "Makefile").read_text()
    (extras,) = re.findall(r'pip install "\.\[([\w,]+)\]"', TARGETS[target])
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert "mpi" in extras.split(",")
    assert ("uma" in extras.split(",")) == (target == "cuda")
    (python,) = re.findall(r"^FROM python:([\d.]+)-slim-\w+ AS base$", DOCKERFILE, re.M)
    assert python.startswith("3.11.")
    tags = re.findall(r"packflow-csp:([\w.]+?)(?:-cuda)?(?=[\s\"]|$)", DOCKERFILE, re.M)
    assert set(tags) == {__version__}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_nothing_runs_as_root(target):
    (user,) = re.findall(r"^USER (\d+):(\d+)$", TARGETS[target], re.M)
    assert int(user[0]) > 0
    assert f"useradd --create-home --uid {user[0]} --gid {user[1]}" in TARGETS["base"]
    after = TARGETS[target].split("USER", 1)[1]
    assert "RUN" not in after
    assert 'ENTRYPOINT ["tini", "--", "csp"]' in after


def test_no_image_has_a_moving_tag():
    images = [service["image"] for service in COMPOSE["services"].values()]
    assert all(re.search(r":[\w.-]*\d", image) for image in images)
    ours = {image for image in images if image.startswith("packflow-csp")}
    assert ours == {f"packflow-csp:{__version__}", f"packflow-csp:{__version__}-cuda"}


def test_services_volumes_and_targets_that_are_named_exist():
    services = COMPOSE["services"]
    assert set(services) == {
        "database", "server", "pools", "dashboard", "worker-cpu", "worker-gpu", "worker-mpi",
    }  # fmt: skip
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        if "build" in service:
            assert service["build"]["target"] in TARGETS
            context = (ROOT / "docker" / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file()
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert services["worker-gpu"]["build"]["target"] == "cuda"


def test_only_this_machine_reaches_the_server():
    ports = [p for service in COMPOSE["services"].values() for p in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_password_is_asked_for_and_not_in_the_file():
    text = (ROOT / "docker" / "compose.yaml").read_text()
    for value in re.findall(r"(?:PASSWORD|TOKEN): *(\S+)", text):
        assert value.startswith("${")
    example = (ROOT / "docker" / "example.env").read_text()
    for name in set(re.findall(r"\${(\w+)", text)):
        assert re.search(rf"^{name}=", example, re.M), name


def test_workers_serve_pools_that_are_made():
    script = COMPOSE["services"]["pools"]["command"][0]
    made = re.search(r"for pool in ([\w ]+); do", script)[1].split()
    deployed = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    assert {d["work_pool"]["name"] for d in deployed} <= set(made)
    for name in ("worker-cpu", "worker-gpu", "worker-mpi"):
        command = COMPOSE["services"][name]["command"]
        assert command[command.index("--pool") + 1] in made
