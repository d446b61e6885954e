"""The targets of a campaign as runs of a deployment, so that several workers share them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as current
from prefect.states import Cancelling

from flows.campaign_runs import CampaignItem, CampaignRun
from flows.how import How
from packflow_core.errors import UserInputError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

logger = logging.getLogger(__name__)

#: Time between two looks at the runs, s.
_POLL_S = 5.0


def run_through(
    runs: CampaignRun, deployment: str, how: How, done: Callable[[int, int], None]
) -> None:
    """Start a run of a deployment for each unfinished target, and wait for all of them.

    The runs share the campaign's folder, which every worker must see. When the campaign ends
    before them, they are cancelled.

    Args:
        runs: the targets; what goes wrong with one is noted there.
        deployment: of the flow `csp`, for example csp/single.
        how: how to work.
        done: told after each target how many are done, and of how many.

    Raises:
        UserInputError: the server has no such deployment.
    """
    total = len(runs.items)
    open_items = [
        i for i in runs.items if i.spec is not None and not i.is_finished(how.retry_failed)
    ]
    waiting: dict[UUID, CampaignItem] = {}
    with get_client(sync_client=True) as client:
        try:
            for item in open_items:
                waiting[_start(item, deployment, how)] = item
            while waiting:
                for number in [k for k in waiting if _ended(client, k, waiting[k])]:
                    del waiting[number]
                    done(total - len(waiting), total)
                if waiting:
                    time.sleep(_POLL_S)
        finally:
            for number in waiting:
                client.set_flow_run_state(number, Cancelling())


def _start(item: CampaignItem, deployment: str, how: How) -> UUID:
    """Start the run of a target; starting it again for the same campaign run is harmless."""
    assert item.spec is not None
    parameters: dict[str, Any] = {
        "spec": item.spec.model_dump(mode="json"),
        "out": str(item.folder.resolve()),
        "workers": how.workers,
        "device": how.device,
        "timeout_s": how.timeout_s,
        "retry_failed": how.retry_failed,
    }
    try:
        run: Any = run_deployment(
            deployment,
            parameters=parameters,
            timeout=0,
            flow_run_name=f"{item.spec.campaign} {item.target.name}",
            idempotency_key=f"{current.id}-{item.target.name}",
        )
    except (ObjectNotFound, ValueError) as error:
        raise UserInputError(
            f"The Prefect server has no deployment '{deployment}'; 'prefect deployment ls' lists "
            "those that it has."
        ) from error
    return UUID(str(run.id))


def _ended(client: SyncPrefectClient, number: UUID, item: CampaignItem) -> bool:
    state = client.read_flow_run(number).state
    if state is None or not state.is_final():
        return False
    if not state.is_completed():
        item.problem = f"Its flow run ended as {state.name}: {state.message or 'nothing is said'}"
        logger.warning("target %s: %s", item.target.name, item.problem)
    return True
