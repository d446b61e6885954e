"""The only things that a dashboard can start: the deployment that resumes runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dashboard.runs import RunView
from dashboard.settings import Settings
from packflow_core.store.lock import is_locked
from packflow_core.store.schema import Reason

logger = logging.getLogger(__name__)

#: Opens a client of a server's API; see `prefect_client`.
Connect = Callable[[str], AbstractContextManager[Any]]


class RefusedError(Exception):
    """An action that was not started; the message says why in one sentence."""


def prefect_client(url: str) -> AbstractContextManager[Any]:
    """Prefect's own client for the API at a URL, with the credentials of the environment."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    client: AbstractContextManager[Any] = SyncPrefectClient(
        url, auth_string=PREFECT_API_AUTH_STRING.value(), api_key=PREFECT_API_KEY.value()
    )
    return client


def resume(
    settings: Settings, run: RunView, reason: str | None = None, connect: Connect = prefect_client
) -> str:
    """Start the deployment that continues a run.

    Args:
        settings: must allow actions and name a server.
        run: to continue.
        reason: candidates that failed for it are attempted again; None for none.
        connect: opens a client.

    Returns:
        A sentence that says what was started.

    Raises:
        RefusedError: actions are not allowed, nothing is to be done, a process works in the
            folder, the server or its deployment is not there, or no worker listens.
    """
    _check(settings, run, reason)
    url = str(settings.prefect_url)
    try:
        with connect(url) as client:
            return _start(client, settings.deployment, run.folder, reason)
    except RefusedError:
        raise
    except Exception as error:  # of the client, the network, or the server's answer
        logger.warning("Prefect at %s: %s: %s", url, type(error).__name__, error)
        raise RefusedError(
            f"The Prefect server at {url} did not take it ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]})."
        ) from error


def _check(settings: Settings, run: RunView, reason: str | None) -> None:
    if not settings.allow_actions:
        raise RefusedError(
            "This dashboard is read only; start it with --allow-actions to have buttons."
        )
    if not settings.prefect_url:
        raise RefusedError(
            "No Prefect server is known; start the dashboard with --prefect-url, or set "
            "PREFECT_API_URL."
        )
    if is_locked(run.folder):
        raise RefusedError(f"A process works in {run.folder} now; wait until it ends.")
    if reason is not None:
        if reason not in set(Reason):
            raise RefusedError("There is no such reason.")
        if not any(
            r.status == "failed" and r.reason == reason for s in run.stages for r in s.reasons
        ):
            raise RefusedError(f"No candidate of this run failed with the reason {reason}.")
    elif run.at_work is None and run.status == "finished":
        raise RefusedError("This run is finished; nothing is left to do.")


def _start(client: Any, name: str, folder: Path, reason: str | None) -> str:
    from prefect.exceptions import ObjectNotFound

    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise RefusedError(
            f"The Prefect server has no deployment {name}; 'prefect deploy --all --prefect-file "
            "deployments/prefect.yaml' makes it."
        ) from error
    _check_worker(client, deployment)
    _check_waiting(client, deployment, folder)
    parameters: dict[str, Any] = {"run_folder": str(folder)}
    if reason is not None:
        parameters["requeue"] = [reason]
    made = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    what = "continues the run" if reason is None else f"attempts '{reason}' again"
    return f"The flow run {made.name} was queued; it {what}."


def _check_worker(client: Any, deployment: Any) -> None:
    """Refuse what nobody would ever pick up."""
    pool = deployment.work_pool_name
    if pool is None:
        if str(getattr(deployment.status, "value", deployment.status)) != "READY":
            raise RefusedError(
                f"Nobody serves the deployment {deployment.name}; start what serves it first."
            )
        return
    if client.read_work_pool(pool).is_paused:
        raise RefusedError(f"The work pool {pool} is paused; 'prefect work-pool resume {pool}'.")
    workers = client.read_workers_for_work_pool(pool)
    if not any(str(getattr(w.status, "value", w.status)) == "ONLINE" for w in workers):
        raise RefusedError(
            f"No worker listens on the work pool {pool}, so nothing would start; run "
            f"'prefect worker start --pool {pool}' first."
        )


def _check_waiting(client: Any, deployment: Any, folder: Path) -> None:
    """Refuse a second flow run for a folder."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    states = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
        ),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
    )
    for run in runs:
        if str(run.parameters.get("run_folder")) == str(folder):
            raise RefusedError(
                f"The flow run {run.name} is there for this folder already; wait until it ends."
            )
