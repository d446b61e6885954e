"""The flow `train`: a PackFlow model is trained on one's own crystals, or a training continued."""

import logging
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, ConfigDict, Field

from flows.train_commands import training_params
from packflow_core.stages.generate import resolve_device
from packflow_core.store.atomic import make_folder
from packflow_core.training.job import Job, Outcome, run_job
from packflow_core.training.launch import check_ranks, launch
from packflow_core.training.mixture import parse_source

logger = logging.getLogger(__name__)

#: Steps between two lines of the flow run's log.
_LOG_EVERY_STEPS = 100


class TrainSettings(BaseModel):
    """Settings of a training. A field that is not given is the preset's and architecture's.

    The fields of `TrainParams` that have no place here go into `other`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["open", "2M", "20M", "60M"] | None = Field(
        None, description="a size by name; 2M, 20M and 60M are those that were published"
    )
    architecture: Literal["open", "official"] | None = Field(
        None, description="open: the network of this project; official: the published one"
    )
    steps: int | None = Field(None, ge=1, description="optimiser steps in all; 10,000 when empty")
    cooldown: int | None = Field(
        None, ge=0, description="last steps, over which the learning rate falls to zero"
    )
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate")
    atoms: int | None = Field(None, ge=64, description="heavy atoms in a batch, about")
    seed: int | None = Field(None, ge=0, description="seed of weights, batches and times")
    save_every: int | None = Field(None, ge=1, description="steps between two saves")
    other: dict[str, Any] = Field(
        default_factory=dict, description="any other field of a training, for example d_model: 320"
    )

    def given(self) -> dict[str, Any]:
        """Fields of `TrainParams` that are given."""
        values = self.model_dump(exclude_none=True, exclude={"other"})
        return values | self.other


@flow(name="train", flow_run_name="train {out}", persist_result=False)
def train(
    data: list[str],
    out: str,
    settings: TrainSettings = TrainSettings(),  # noqa: B008  frozen; draws the form
    init: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    ranks: Annotated[int, Field(ge=1)] = 1,
    threads: Annotated[int | None, Field(ge=1)] = None,
    minutes: Annotated[float | None, Field(gt=0)] = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train a PackFlow model, or continue a training in its folder.

    A training that is cancelled or killed has lost what came after its last save; the same
    parameters continue it.

    Args:
        data: folders with crystals.parquet and molecules.parquet, or with train.npz and val.npz,
            each as FOLDER or FOLDER=WEIGHT.
        out: folder of the training.
        settings: of the training.
        init: start a new training with the weights of this model, a name or a checkpoint.
        device: where to train.
        ranks: processes that train together, each with a GPU of its own where device is cuda.
        threads: CPU threads a process; PyTorch's choice when not given.
        minutes: save and stop after so long; never when not given.
        tensorboard: write a log for TensorBoard too.

    Returns:
        The checkpoint and where the training stands.

    Raises:
        UserInputError: bad data, settings, device or folder.
        RunFailedError: a process of the training died.
    """
    where = resolve_device(device)
    check_ranks(ranks, where)
    params = training_params(settings.given(), init)
    folder = Path(out)
    make_folder(folder)
    sources = tuple(parse_source(text) for text in data)
    job = Job(sources, folder, params, where, threads, minutes, init, tensorboard)

    def on_step(step: int, loss: float) -> None:
        if step % _LOG_EVERY_STEPS == 0:
            logger.info("step %d of %d, loss %.4g", step, params.steps, loss)

    if ranks > 1:
        outcome = launch(job, ranks, on_step, log_file=folder / "train.log")
    else:
        outcome = run_job(job, on_step=on_step)
    facts = {
        "checkpoint": str(job.checkpoint.resolve()),
        "step": outcome.step,
        "of": params.steps,
        "seconds": outcome.seconds,
    }
    _artifact(out, facts, outcome)
    return facts


def _artifact(out: str, facts: dict[str, Any], outcome: Outcome) -> None:
    """Show the result in the Prefect UI; never a reason to fail."""
    lines = [
        f"# Training in {out}",
        f"Step {facts['step']} of {facts['of']} after {outcome.seconds:.0f} s.",
        "",
        f"Try it: `csp run SMILES --generator {facts['checkpoint']}`",
    ]
    key = re.sub(r"[^a-z0-9]+", "-", f"train-{out}".lower()).strip("-")
    try:
        create_markdown_artifact("\n".join(lines), key=key)
    except Exception:
        logger.warning("an artifact could not be written", exc_info=True)
