"""What all tasks share: when to try again, and that the ledger, not Prefect, remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from prefect.cache_policies import NO_CACHE

from packflow_core.errors import PackflowError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task


class TaskOptions(TypedDict):
    """Arguments of `prefect.task`."""

    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Any
    cache_policy: Any
    persist_result: bool


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a chunk that raised may succeed when tried again.

    A chunk records the failures of its candidates; what it raises itself is the machinery's: a
    wrong input or a full disk will not mend itself, anything else may.
    """
    try:
        state.result()
    except PackflowError:
        return False
    except Exception:
        return True
    return False


#: Running a chunk again is harmless: what it recorded is skipped. Results are not kept by
#: Prefect, because the stage table is the only truth.
OPTIONS: TaskOptions = {
    "retries": 2,
    "retry_delay_seconds": [2.0, 20.0],
    "retry_condition_fn": worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}

#: Chunk of a stage as it travels to a task: pairs (candidate index, number of this attempt).
Work = list[tuple[int, int]]
