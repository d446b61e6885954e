"""The legs of a race: one run folder for each generator, all else equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.how import How
from packflow_core.baselines.names import family_of
from packflow_core.errors import UserInputError
from packflow_core.race.legs import FloatArray, read_leg
from packflow_core.spec import RunSpec, make_spec
from packflow_core.stages.generation import check_ranks
from packflow_core.stages.plan import check_device
from packflow_core.stages.run_store import RUN_JSON, RunStore, check_same_run, plan_for
from packflow_core.store.atomic import make_folder
from packflow_core.store.lock import RunLock


@dataclass(frozen=True)
class RaceLeg:
    """One leg that is to be run.

    Attributes:
        spec: what to run.
        folder: where.
    """

    spec: RunSpec
    folder: Path

    def of_size(self, n: int) -> RunSpec:
        """The spec for `n` candidates."""
        return self.spec.model_copy(update={"n": n})

    def size(self) -> int:
        """Candidates that the folder's run was asked for; 0 while there is none."""
        return RunStore(self.folder).plan.spec.n if (self.folder / RUN_JSON).is_file() else 0

    def costs(self) -> FloatArray:
        """[n] working seconds of its finished candidates, generation to last relaxation."""
        return read_leg(RunStore(self.folder), self.spec.method).cost_s

    def means(self, how: How) -> How:
        """How to work on this leg: only baselines that pack at random take ranks of MPI."""
        if how.ranks is None or family_of(self.spec.generator) == "random":
            return how
        return How(how.workers, how.device, how.timeout_s, how.retry_failed)


def default_folder(spec: RunSpec, root: str | Path = "runs") -> Path:
    """Folder `<root>/<campaign>/<target>/race` of a race."""
    return Path(root) / spec.campaign / spec.name / "race"


def race_legs(spec: RunSpec, generators: Sequence[str], out: Path) -> list[RaceLeg]:
    """Legs of a race in the folders `out/<method>`.

    Raises:
        UserInputError: fewer than two generators, one named twice, two with one name of the
            method, or `out` is a run folder itself.
    """
    names = [name.strip() for name in generators]
    if len(names) < 2 or not all(names):
        raise UserInputError(
            "A race takes two or more generators, for example --generators "
            "packflow-open,random+press."
        )
    if (out / RUN_JSON).exists():
        raise UserInputError(
            f"The folder {out} holds a run; choose another with --out for the race."
        )
    legs: dict[str, RaceLeg] = {}
    for name in names:
        leg_spec = make_spec({**spec.model_dump(mode="json"), "generator": name})
        method = leg_spec.method
        if method in legs:
            raise UserInputError(
                f"The generators '{legs[method].spec.generator}' and '{name}' would both be called "
                f"{method}; name each once, and give checkpoints files of different names."
            )
        legs[method] = RaceLeg(leg_spec, out / method)
    return list(legs.values())


def check_legs(legs: Sequence[RaceLeg], seconds: float | None, how: How) -> None:
    """Refuse what any leg would be refused for, before the first one starts.

    Args:
        legs: of the race.
        seconds: working time of each; None where the number of candidates is given.
        how: workers, device, ranks.

    Raises:
        UserInputError: an input is wrong, a folder holds another run, or is in use.
    """
    if how.ranks is not None and all(leg.means(how).ranks is None for leg in legs):
        check_ranks(legs[0].spec, how.ranks)
    for leg in legs:
        size = leg.size() if seconds is not None else leg.spec.n
        plan = plan_for(leg.of_size(max(size, 1)), leg.folder)
        check_device(leg.spec, how.workers, how.device)
        check_ranks(leg.spec, leg.means(how).ranks)
        if leg.folder.exists():
            make_folder(leg.folder)
            with RunLock(leg.folder):
                check_same_run(leg.folder, plan)
