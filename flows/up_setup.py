"""What a server needs to know before work can begin: pools, deployments, automations.

Run by `csp up` as ``python -m flows.up_setup PREFECT_YAML SCHEDULES`` with PREFECT_API_URL set, in
the folder below which runs are to be written. Doing it again is harmless.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.up_services import POOLS

logger = logging.getLogger(__name__)

#: Global concurrency limit of the stages that use a GPU, see docs/scale.md.
GPU_LIMIT = "gpu"


def make_pools(client: SyncPrefectClient) -> None:
    """Make the work pools that do not exist."""
    template = ProcessWorker.get_default_base_job_template()
    for pool in POOLS:
        try:
            client.create_work_pool(
                WorkPoolCreate(name=pool, type="process", base_job_template=template)
            )
        except ObjectAlreadyExists:
            continue


def make_gpu_limit(client: SyncPrefectClient) -> None:
    """Let one stage at a time have the GPUs of this machine, unless a limit was set."""
    if GPU_LIMIT not in {limit.name for limit in client.read_global_concurrency_limits()}:
        client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, 1)


def deploy(prefect_yaml: Path) -> None:
    """Register all deployments of a file.

    Raises:
        SystemExit: Prefect refused, for the reasons that it printed.
    """
    command = [
        sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all",
        "--prefect-file", str(prefect_yaml),
    ]  # fmt: skip
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def pause_schedules(client: SyncPrefectClient) -> None:
    """Keep deployments with a schedule from starting by themselves."""
    for deployment in client.read_deployments():
        for schedule in deployment.schedules:
            if schedule.active and schedule.id is not None:
                client.update_deployment_schedule(deployment.id, schedule.id, active=False)


def make_automations(client: SyncPrefectClient, folder: Path) -> None:
    """Make the automations that need nothing but the server, unless they exist."""
    content = yaml.safe_load((folder / "zombies.yaml").read_text(encoding="utf-8"))
    if not client.read_automations_by_name(content["name"]):
        client.create_automation(AutomationCore.model_validate(content))


def main() -> None:
    """Make everything that is missing."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    prefect_yaml, schedules = Path(sys.argv[1]), sys.argv[2] == "True"
    with get_client(sync_client=True) as client:
        make_pools(client)
        make_gpu_limit(client)
        logger.info("work pools: %s", ", ".join(POOLS))
        deploy(prefect_yaml)
        if not schedules:
            pause_schedules(client)
        make_automations(client, prefect_yaml.parent / "automations")
    logger.info("deployments and automations are in place")


if __name__ == "__main__":
    main()
