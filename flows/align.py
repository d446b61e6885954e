"""The flow `train` of an alignment: a generator is moved by energies and forces."""

import logging
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from packflow_core.align.job import AlignJob, run_alignment
from packflow_core.align.params import AlignParams
from packflow_core.engines.trust import check_trusted

logger = logging.getLogger(__name__)


@flow(name="train", flow_run_name="align {out}", persist_result=False)
def align(
    molecules: str,
    out: str,
    settings: AlignParams = AlignParams(),  # noqa: B008  frozen; draws the form
    generator: str = "packflow-open",
    validation: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: Annotated[int | None, Field(ge=1)] = None,
    minutes: Annotated[float | None, Field(gt=0)] = None,
) -> dict[str, Any]:
    """Align a generator with energies and forces, or continue an alignment in its folder.

    Args:
        molecules: text file with one SMILES a line, or a folder with training data.
        out: folder of the alignment.
        settings: of the alignment.
        generator: model to begin with, which is the reference.
        validation: molecules whose raw samples are watched; of a folder, its val split.
        device: where the network runs.
        workers: processes for the rewards; one per processor when not given.
        minutes: save and stop after so long; never when not given.

    Returns:
        The checkpoint and where the alignment stands.

    Raises:
        UserInputError: bad molecules, settings, engine, device or folder.
    """
    check_trusted(settings.engine)
    job = AlignJob(
        Path(molecules), Path(out), settings, generator=generator,
        validation=Path(validation) if validation else None, device=device, workers=workers,
        minutes=minutes,
    )  # fmt: skip
    facts = run_alignment(
        job, lambda step, row: logger.info("step %d of %d: %s", step, settings.steps, row)
    )
    _artifact(out, facts)
    return facts


def _artifact(out: str, facts: dict[str, Any]) -> None:
    """Show the result in the Prefect UI; never a reason to fail."""
    text = (
        f"# Alignment in {out}\nStep {facts['step']} of {facts['of']}. {facts['ended']}\n\n"
        f"Try it: `csp run SMILES --generator {facts['checkpoint']}`"
    )
    key = re.sub(r"[^a-z0-9]+", "-", f"align-{out}".lower()).strip("-")
    try:
        create_markdown_artifact(text, key=key)
    except Exception:
        logger.warning("an artifact could not be written", exc_info=True)
