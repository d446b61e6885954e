"""The flow `train` of an alignment: a generator is moved by energies and forces."""

import logging
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from packflow_core.align.molecules import read_molecules
from packflow_core.align.params import AlignParams
from packflow_core.align.trainer import Aligner
from packflow_core.align.validation import RawQuality
from packflow_core.devices import make_seats
from packflow_core.engines.registry import engine_traits, fetch_engine
from packflow_core.engines.trust import check_trusted
from packflow_core.stages.generate import resolve_device
from packflow_core.store.atomic import make_folder
from packflow_core.workers import WorkerPool

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
    fetch_engine(settings.engine)
    where = resolve_device(device)
    source, folder = Path(molecules), Path(out)
    chemistry = read_molecules(source)
    watched = None
    if settings.validate_every and (validation or source.is_dir()):
        watched = read_molecules(Path(validation) if validation else source, "val")
    make_folder(folder)
    seats = make_seats(workers, device, gpu=engine_traits(settings.engine).gpu)
    with WorkerPool(seats, log=folder / "workers.log") as pool:
        aligner = Aligner(settings, generator, chemistry, folder, pool, where)
        if watched is not None:
            aligner.validation = RawQuality(watched, aligner.preset, settings)
        aligner.run(
            lambda step, row: logger.info("step %d of %d: %s", step, settings.steps, row),
            math.inf if minutes is None else 60.0 * minutes,
        )
    facts = {
        "checkpoint": str(aligner.checkpoint.resolve()),
        "step": aligner.step,
        "of": settings.steps,
        "ended": aligner.ended,
        "seconds": round(aligner.seconds, 1),
    }
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
