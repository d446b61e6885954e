"""Secrets of the Prefect server that a run needs: lent to its process, never written anywhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from prefect.blocks.system import Secret

logger = logging.getLogger(__name__)

#: Secret block with the Hugging Face token, and the variable that libraries read.
BLOCK, VARIABLE = "hf-token", "HF_TOKEN"


def lend_token(engines: Iterable[str]) -> None:
    """Put the Hugging Face token of the server into the environment of this process.

    Nothing happens where no engine needs one, where the environment has one, or where the server
    has no Secret block `hf-token`. Call it in a flow; workers inherit the environment.

    Args:
        engines: names of the run's energy engines.
    """
    if os.environ.get(VARIABLE) or not any(name.startswith("uma") for name in engines):
        return
    try:
        block: Any = Secret.load(BLOCK)
        os.environ[VARIABLE] = str(block.get())
    except ValueError:
        logger.debug("the Prefect server has no Secret block %s", BLOCK)
