import pytest
from prefect.states import Completed, Failed

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.store.atomic import StorageFullError
from tasks.policy import OPTIONS, worth_retrying


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError("stale file handle"), True),
        (ConnectionError("reset"), True),
        (StorageFullError("The disk is full."), False),
        (UserInputError("wrong"), False),
        (RunFailedError("no worker starts"), False),
    ],
)
def test_a_chunk_is_tried_again_when_the_machinery_stumbled(error, again):
    assert worth_retrying(None, None, Failed(data=error)) is again


def test_a_chunk_that_succeeded_is_not_tried_again():
    assert worth_retrying(None, None, Completed(data=3)) is False


def test_prefect_keeps_nothing_that_the_ledger_knows_better():
    assert OPTIONS["persist_result"] is False
    assert len(OPTIONS["retry_delay_seconds"]) == OPTIONS["retries"]
