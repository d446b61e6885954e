"""What `csp verify` and `csp free-energy` do."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.console import CommandInterrupted, Terminal, interruptible
from packflow_core import progress
from packflow_core.devices import make_seats
from packflow_core.engines.registry import engine_traits
from packflow_core.errors import UserInputError
from packflow_core.spec import engine_of
from packflow_core.stages.finish import read_ranked, write_report_again
from packflow_core.stages.pools import close_pools, pool
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.store.atomic import storage_errors
from packflow_core.store.lock import RunLock
from packflow_core.store.rows import Row
from packflow_core.trust.free_energy import Price
from packflow_core.trust.free_energy_table import FreeEnergies
from packflow_core.trust.phonons import Repeats
from packflow_core.trust.verify_table import Verification
from packflow_core.workers import WorkerPool

_WIDTH = 100


def verify(
    terminal: Terminal,
    folder: Path,
    top: int,
    relax: bool,
    workers: int | None,
    device: str,
    timeout_s: float | None,
) -> None:
    """Check the best structures of a run and show what was found.

    Raises:
        UserInputError: no run, nothing ranked, or its engine cannot be used here.
    """
    from packflow_core.trust.run_verify import verify_run

    run, ranked = _ranked(folder)
    with _at_work(terminal, run, workers, device) as give:
        found = verify_run(run, ranked, give, top, relax, timeout_s)
        write_report_again(run, ranked)
    if terminal.json:
        terminal.document({"folder": str(folder.resolve()), **found.as_dict()})
        return
    if not terminal.quiet:
        show_verification(terminal, found)
    show_sentences(terminal, found.findings)


def free_energy(
    terminal: Terminal,
    folder: Path,
    top: int,
    temperature_K: float,
    supercell: str,
    yes: bool,
    workers: int | None,
    device: str,
    timeout_s: float | None,
) -> None:
    """Free energies of the best structures of a run, after their price was agreed to.

    Raises:
        UserInputError: no run, nothing ranked, phonopy or the engine is missing, or the price is
            high and nobody agreed to it.
    """
    from packflow_core.trust.run_free_energy import free_energy_run, require_phonopy

    require_phonopy()
    repeats = parse_supercell(supercell)
    run, ranked = _ranked(folder)

    def approve(price: Price) -> None:
        _approve(terminal, price, yes)

    with _at_work(terminal, run, workers, device) as give:
        found = free_energy_run(run, ranked, give, top, temperature_K, repeats, approve, timeout_s)
        write_report_again(run, ranked)
    if terminal.json:
        terminal.document({"folder": str(folder.resolve()), **found.as_dict()})
        return
    if not terminal.quiet:
        show_free_energies(terminal, found)
    show_sentences(terminal, found.findings)


def parse_supercell(text: str) -> Repeats | None:
    """Repeats of a supercell, None for `equal`.

    Raises:
        UserInputError: neither `equal` nor three whole numbers from 1 to 9.
    """
    if text.strip().lower() == "equal":
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(re.fullmatch("[1-9]", part) for part in parts):
        raise UserInputError(
            f"--supercell {text} is not understood; give three numbers from 1 to 9, as in 2,1,1, "
            "or 'equal'."
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def _approve(terminal: Terminal, price: Price, yes: bool) -> None:
    """Tell the price; above the limit somebody must agree to it."""
    from packflow_core.trust.run_free_energy import FREE_S

    if not terminal.quiet:
        terminal.say(str(price))
    if yes or price.seconds <= FREE_S:
        return
    raise UserInputError(
        f"{price} That is more than {FREE_S / 60:g} minutes: add --yes to agree, or take fewer "
        "structures with --top."
    )


def show_free_energies(terminal: Terminal, found: FreeEnergies) -> None:
    """Print the table of free energies."""
    from rich.table import Table

    title = f"{found.engine}, {found.temperature_K:g} K, kJ/mol per molecule"
    table = Table(title=title, title_justify="left")
    for name in (
        "rank", "candidate", "ΔE", "ΔF", "rank\nby F", "zero\npoint", "F vib", "lowest\n1/cm",
        "imaginary", "supercell",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "candidate" else "right")
    for row in found.rows:
        table.add_row(
            str(row["rank"]),
            str(row["candidate_id"]),
            _number(row.get("static_rel_kJ_mol")),
            _number(row.get("free_energy_rel_kJ_mol")),
            str(row.get("free_energy_rank") or ""),
            _number(row.get("zero_point_kJ_mol")),
            _number(row.get("vibrational_kJ_mol")),
            "" if row.get("lowest_cm1") is None else f"{row['lowest_cm1']:.0f}",
            "" if row.get("n_imaginary") is None else str(row["n_imaginary"]),
            "x".join(map(str, row["supercell"])),
        )
    terminal.console().print(table)


def show_verification(terminal: Terminal, found: Verification) -> None:
    """Print the table of a verification."""
    from rich.table import Table

    table = Table(title=f"{found.engine}, kJ/mol per molecule", title_justify="left")
    titles = ["rank", "candidate", "ΔE", "other\ncell", "larger\ncell", "spread", "possible\nranks"]
    if found.tight:
        titles += ["tighter", "volume\n%", "rank\nthen"]
    for title in titles:
        table.add_column(title, justify="left" if title == "candidate" else "right")
    for row in found.rows:
        best, worst = row.get("rank_best"), row.get("rank_worst")
        cells = [
            str(row["rank"]),
            str(row["candidate_id"]),
            _number(row["lattice_energy_rel_kJ_mol"]),
            _number(row.get("other_cell_kJ_mol"), "+"),
            _number(row.get("larger_kJ_mol"), "+"),
            _number(row.get("energy_spread_kJ_mol")),
            "" if best is None else f"{best}" if best == worst else f"{best}-{worst}",
        ]
        if found.tight:
            cells += [
                _number(row.get("tight_change_kJ_mol"), "+"),
                _number(row.get("tight_volume_change_percent"), "+"),
                str(row.get("tight_rank") or row["tight_status"]),
            ]
        table.add_row(*cells)
    terminal.console().print(table)


def show_sentences(terminal: Terminal, sentences: tuple[str, ...]) -> None:
    """Print sentences, one paragraph each."""
    for sentence in sentences:
        terminal.write(textwrap.fill(sentence, _WIDTH))


def _number(value: Any, sign: str = "") -> str:
    return "" if value is None else f"{round(float(value), 2) + 0.0:{sign}.2f}"


def _ranked(folder: Path) -> tuple[RunStore, list[Row]]:
    run = RunStore(folder)
    rows = read_ranked(folder)
    if not any(row.get("rank") is not None for row in rows):
        raise UserInputError(
            f"{folder} holds no ranked structures yet (the run is {run.status}); finish it with "
            f"'csp resume {folder}'."
        )
    return run, rows


@contextmanager
def _at_work(
    terminal: Terminal, run: RunStore, workers: int | None, device: str
) -> Iterator[Callable[[], WorkerPool]]:
    """Hold a run's folder, with a progress and workers of its engine; gives the pool."""
    traits = engine_traits(engine_of(run.plan.spec, run.plan.last_relaxation))
    seats = make_seats(workers, device, gpu=traits.gpu)
    log = run.folder / LOG
    with RunLock(run.folder):
        with storage_errors(run.folder):
            terminal.open_log(log)
        with terminal.captured():
            try:
                with interruptible(run.folder), progress.use(terminal.progress()):
                    yield lambda: pool(seats, log)
            except CommandInterrupted as error:
                # Not a run that could be resumed, but this command.
                raise CommandInterrupted from error
            finally:
                close_pools()
