"""The runs of a campaign: a spec and a folder for each target, and what became of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from packflow_core.baselines.names import BASELINES
from packflow_core.campaign import (
    Campaign,
    CampaignTarget,
    find_campaign,
    read_campaign,
    shipped_campaigns,
)
from packflow_core.campaign_table import (
    Row,
    TargetRun,
    TargetStatus,
    campaign_tables,
)
from packflow_core.errors import (
    EXIT_RUN_FAILED,
    EXIT_TOO_MANY_FAILURES,
    PackflowError,
    UserInputError,
)
from packflow_core.spec import N_MAX, Refinement, RunSpec
from packflow_core.stages.run_store import RUN_JSON, RunStore, check_same_run, plan_for


class Search(BaseModel):
    """What all runs of a campaign share; a field that is not given stays as the file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int | None = Field(None, ge=1, le=N_MAX, description="candidates of each target")
    generator: str | None = Field(
        None,
        min_length=1,
        description="name or path of a PackFlow model, or a baseline: " + ", ".join(BASELINES),
    )
    engine: str | None = Field(None, min_length=1, description="energy engine")
    refine: list[Refinement] | None = Field(
        None, description="further relaxations of the best candidates with other engines"
    )
    protocol: Literal["converged", "paper"] | None = Field(
        None, description="relaxation: forces and residual stress, or forces only as published"
    )
    seed: int | None = Field(None, ge=0, description="seed; same seed, same candidates")
    max_failed: float | None = Field(
        None, ge=0, le=1, description="fraction of candidates that may fail"
    )

    def changes(self) -> dict[str, Any]:
        """Fields of a run that are given."""
        values = self.model_dump(mode="json", exclude_none=True, exclude={"protocol"})
        return values | ({"relax": {"protocol": self.protocol}} if self.protocol else {})


@dataclass
class CampaignItem:
    """A target of a campaign with its run.

    Attributes:
        target: of the campaign.
        spec: of its run; None where it was refused.
        folder: of its run.
        problem: what went wrong with it, or why it was refused.
    """

    target: CampaignTarget
    spec: RunSpec | None
    folder: Path
    problem: str = ""

    def is_finished(self, retry_failed: bool = False) -> bool:
        """Whether there is nothing left to do.

        Args:
            retry_failed: failures whose reason may pass count as left to do.
        """
        if self.spec is None or not (self.folder / RUN_JSON).is_file():
            return False
        try:
            run = RunStore(self.folder)
            check_same_run(self.folder, plan_for(self.spec, self.folder))
            # More candidates than before continue a run.
            same_size = run.plan.spec.n == self.spec.n
            left = any(run.pending(stage, retry_failed) for stage in run.plan.stage_names)
        except PackflowError:
            return False
        return run.status == "finished" and same_size and not left

    def as_target_run(self) -> TargetRun:
        """For the tables."""
        return TargetRun(self.target, self.spec, self.folder, self.problem)


class CampaignEndedError(PackflowError):
    """A campaign is done, its table is written, and not every target finished well."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True)
class CampaignRun:
    """The targets of a campaign that are to be run.

    Attributes:
        campaign: as read.
        file: where it was read.
        folder: of the campaign.
        items: its targets.
    """

    campaign: Campaign
    file: Path
    folder: Path
    items: list[CampaignItem]

    @property
    def name(self) -> str:
        """Name of the campaign."""
        return self.campaign.name

    def in_subfolder(self, name: str) -> Self:
        """The same campaign in a folder inside its own."""
        items = [
            replace(item, folder=self.folder / name / item.folder.relative_to(self.folder))
            for item in self.items
        ]
        return replace(self, folder=self.folder / name, items=items)

    def tables(self) -> tuple[list[Row], list[Row]]:
        """Rows of the targets, and of their known forms, as things stand."""
        return campaign_tables(self.name, [item.as_target_run() for item in self.items])

    def verdict(self) -> CampaignEndedError | None:
        """What is wrong with a campaign whose targets are done, or None."""
        rows, _ = self.tables()
        many = [row for row in rows if row["status"] == TargetStatus.TOO_MANY_FAILURES]
        lost = [row for row in rows if row["status"] != TargetStatus.FINISHED and row not in many]
        if lost:
            return CampaignEndedError(
                f"{len(lost)} of {len(rows)} targets of the campaign {self.name} did not finish "
                f"({_names(lost)}); the first because: {lost[0]['reason'] or lost[0]['status']} "
                "The same command goes on with them.",
                EXIT_RUN_FAILED,
            )
        if many:
            return CampaignEndedError(
                f"In {len(many)} of {len(rows)} targets more candidates failed than allowed "
                f"({_names(many)}); the first: {many[0]['reason']}",
                EXIT_TOO_MANY_FAILURES,
            )
        return None


def open_campaign(
    name: str, only: list[str], search: Search, folder: Path | None = None
) -> CampaignRun:
    """Read a campaign and make the specs of its runs.

    A target whose spec is refused, because its molecule does not suit a setting, is noted as such;
    a fault that all targets have is one of the input.

    Args:
        name: path of a campaign file, or name of one that is shipped.
        only: names or labels of targets; all when empty.
        search: what all runs share.
        folder: of the campaign; `runs/<campaign>` when None.

    Raises:
        UserInputError: an input is wrong.
    """
    file = find_campaign(name)
    campaign = read_campaign(file)
    where = folder if folder is not None else Path("runs") / campaign.name
    if (where / RUN_JSON).exists():
        raise UserInputError(
            f"The folder {where} holds a run; choose another with --out for the campaign."
        )
    items = []
    for target in campaign.select(only):
        try:
            spec = campaign.spec_of(target, search.changes())
            items.append(CampaignItem(target, spec, where / target.name / spec.method))
        except UserInputError as error:
            items.append(CampaignItem(target, None, where / target.name, str(error)))
    if all(item.spec is None for item in items):
        raise UserInputError(items[0].problem)
    return CampaignRun(campaign, file, where, items)


def target_by_name(name: str, campaign: str = "blind_test") -> tuple[Campaign, CampaignTarget]:
    """A target of a campaign by its name or label.

    Raises:
        UserInputError: no such target.
    """
    found = read_campaign(find_campaign(campaign))
    return found, found.select([name])[0]


def blind_test_names() -> list[str]:
    """Names of the targets of the shipped blind tests; none where the file is not installed."""
    if "blind_test" not in shipped_campaigns():
        return []
    return [target.name for target in read_campaign(find_campaign("blind_test")).targets]


def _names(rows: list[Row]) -> str:
    shown = [str(row["target"]) for row in rows[:5]]
    return ", ".join(shown) + (", ..." if len(rows) > 5 else "")
