"""What `csp export` and `csp pxrd` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import Terminal
from packflow_core.errors import UserInputError
from packflow_core.stages.finish import read_ranked
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import make_folder, storage_errors
from packflow_core.store.rows import Row

if TYPE_CHECKING:
    from packflow_core.analysis.pxrd_patterns import PxrdParams

#: Structures that are taken where neither a number nor a window is given.
EXPORT_TOP = 10
PXRD_TOP = 20


def export(
    terminal: Terminal,
    folder: Path,
    top: int | None,
    window: float | None,
    formats: Sequence[str],
    to: Path | None,
    duplicates: bool,
) -> None:
    """Write the best structures and their table into a folder of their own."""
    from packflow_core.analysis.export_formats import parse_formats, write_export

    chosen_formats = parse_formats(formats)
    run, rows = _chosen(folder, top, window, duplicates, EXPORT_TOP)
    target = to if to is not None else folder / "export"
    if (target / "run.json").exists():
        raise UserInputError(
            f"{target} is a run folder, whose own table an export would replace; give --to a "
            "folder of its own."
        )
    make_folder(target)
    with storage_errors(target):
        done = write_export(rows, target, chosen_formats, run.plan.spec.rank.symprec_A)
    if terminal.json:
        terminal.document(
            {
                "folder": str(target.resolve()),
                "structures": done.structures,
                "formats": list(chosen_formats),
                "files": [str(path) for path in done.files],
                "without_symmetry": list(done.without_symmetry),
            }
        )
        return
    terminal.write(f"{_structures(done.structures)} ({', '.join(chosen_formats)}) and ranked.csv "
                   f"are in {target}")  # fmt: skip
    if done.without_symmetry:
        terminal.say(
            f"No symmetry operations give back {', '.join(done.without_symmetry[:5])}; "
            "the symmetrised CIF is P1 there."
        )


def _chosen(
    folder: Path, top: int | None, window: float | None, duplicates: bool, default: int
) -> tuple[RunStore, list[Row]]:
    """The run and the rows that a command takes.

    Raises:
        UserInputError: nothing is ranked yet.
    """
    from packflow_core.analysis.export_formats import select_structures

    run = RunStore(folder)
    rows = [row for row in read_ranked(folder) if row.get("rank") is not None]
    if not rows:
        raise UserInputError(
            f"{folder} holds no ranked structures yet (the run is {run.status}); finish it with "
            f"'csp resume {folder}'."
        )
    most = default if top is None and window is None else top
    return run, select_structures(rows, top=most, window_kJ_mol=window, duplicates=duplicates)


def _structures(n: int) -> str:
    return f"{n} structure{'s' if n != 1 else ''}"


def pxrd(
    terminal: Terminal,
    folder: Path,
    pattern: Path | None,
    top: int | None,
    window: float | None,
    settings: Sequence[str],
    to: Path | None,
    duplicates: bool,
) -> None:
    """Simulate powder patterns, compare them with a measured one, write table and figure."""
    from packflow_core.analysis import pxrd_figure, pxrd_measured, pxrd_table

    params = _pxrd_params(settings)
    measured = None if pattern is None else pxrd_measured.read_pattern(pattern, params)
    run, chosen = _chosen(folder, top, window, duplicates, PXRD_TOP)
    target = to if to is not None else folder / "pxrd"
    make_folder(target)
    progress = terminal.progress()
    progress.start("pxrd", len(chosen), {})
    rows: list[Row] = []
    try:
        for row in pxrd_table.pattern_rows(chosen, params, measured):
            rows.append(row)
            progress.advance("pxrd", "failed" if row["detail"] else "ok")
        progress.finish("pxrd")
    finally:
        progress.close()
    rows = pxrd_table.with_pattern_rank(rows)
    facts = {"params": params.model_dump_json(), "pattern": str(pattern or "")}
    spec = run.plan.spec
    title = f"{spec.name}, {run.plan.engine}"
    files = {name: target / f"pxrd.{name}" for name in ("parquet", "csv", "png", "svg")}
    with storage_errors(target):
        pxrd_table.write_parquet(rows, files["parquet"], facts)
        pxrd_table.write_csv(rows, files["csv"])
        figure = pxrd_figure.pattern_figure(rows, params, measured, title)
        pxrd_figure.write_figures(figure, files["png"], files["svg"])
    if terminal.json:
        names = pxrd_table.CSV_COLUMNS
        terminal.document(
            {
                "folder": str(target.resolve()),
                "pattern": None if pattern is None else str(pattern.resolve()),
                "structures": [{name: row.get(name) for name in names} for row in rows],
                "files": {name: str(path.resolve()) for name, path in files.items()},
            }
        )
        return
    if measured is not None and not terminal.quiet:
        _print_similarities(terminal, rows)
    terminal.write(f"Patterns of {_structures(len(rows))} are in {target} (pxrd.csv, pxrd.png).")


def _pxrd_params(settings: Sequence[str]) -> PxrdParams:
    """Settings of the patterns.

    Raises:
        UserInputError: an unknown field, or a value that it cannot have.
    """
    from pydantic import ValidationError

    from flows.run_commands import parse_setting
    from packflow_core.analysis.pxrd_patterns import PxrdParams

    try:
        return PxrdParams.model_validate(dict(parse_setting(text) for text in settings))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(PxrdParams.model_fields)
            raise UserInputError(f"'{field}' is no setting of the patterns; {known}.") from error
        text = str(first["msg"]).replace("Value error, ", "")
        raise UserInputError(f"--set {field}: {text}." if field else f"--set: {text}.") from error


def _print_similarities(terminal: Terminal, rows: Sequence[Row]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for title in ("", "rank", "candidate", "ΔE\nkJ/mol", "S\nrelaxed", "S\nscaled", "V\nfactor"):
        table.add_column(title, justify="left" if title == "candidate" else "right")
    for row in rows[:10]:
        numbers = [row.get(name) for name in ("similarity", "similarity_scaled", "volume_factor")]
        cells = [
            str(row.get("pattern_rank") or ""),
            str(row["rank"]),
            str(row["candidate_id"]),
            f"{row['lattice_energy_rel_kJ_mol']:.2f}",
            *("" if number is None else f"{number:.3f}" for number in numbers),
        ]
        table.add_row(*[Text(cell) for cell in cells])
    terminal.console().print(table)
