"""What `csp match` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.console import CommandInterrupted, Terminal, interruptible
from packflow_core.errors import UserInputError
from packflow_core.stages.finish import read_ranked
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.store.rows import Row

if TYPE_CHECKING:
    from rich.table import Table

    from packflow_core.analysis.matching import MatchReport
    from packflow_core.stages.match import RunMatch

_LARGEST_SHELL = 100
_ROW = (
    "rank", "candidate_id", "lattice_energy_rel_kJ_mol", "lattice_energy_kJ_mol", "density_g_cm3",
    "space_group", "z", "z_prime", "cluster", "cluster_size",
)  # fmt: skip


def parse_shells(text: str) -> list[int]:
    """Sizes of the clusters, ascending.

    Raises:
        UserInputError: not a list of numbers from 2 to 100.
    """
    try:
        shells = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        shells = []
    if not shells or shells[0] < 2 or shells[-1] > _LARGEST_SHELL:
        raise UserInputError(
            f"--shells {text} is not a list of numbers from 2 to {_LARGEST_SHELL}; write for "
            "example --shells 15,20,30."
        )
    return shells


def match_crystals(terminal: Terminal, path: Path, reference: Path, shells: Sequence[int]) -> None:
    """Compare two crystals and show every measure."""
    from packflow_core.analysis.matching import as_document
    from packflow_core.stages.match import match_file

    report = match_file(path, reference, shells)
    if terminal.json:
        terminal.document(
            {"crystal": str(path), "reference": str(reference), **as_document(report)}
        )
    elif not terminal.quiet:
        _print_report(terminal, report)


def match_run(
    terminal: Terminal,
    folder: Path,
    reference: Path,
    shells: Sequence[int],
    top: int,
    window: float | None,
    duplicates: bool,
    workers: int | None,
) -> None:
    """Compare the ranked structures of a run with a reference and show the best matches."""
    from packflow_core.analysis.export_formats import select_structures
    from packflow_core.stages.match import best_first, match_rows
    from packflow_core.stages.pools import close_pools

    run = RunStore(folder)
    ranked = [row for row in read_ranked(folder) if row.get("rank") is not None]
    if not ranked:
        raise UserInputError(
            f"{folder} holds no ranked structures yet (the run is {run.status}); finish it with "
            f"'csp resume {folder}'."
        )
    rows = select_structures(ranked, top=None, window_kJ_mol=window, duplicates=duplicates)
    progress = terminal.progress()
    progress.start("match", len(rows), {})
    found: list[RunMatch] = []
    try:
        with interruptible(folder):
            for match in match_rows(
                rows, run.plan.spec.smiles, reference, shells, workers, folder / LOG
            ):
                found.append(match)
                progress.advance("match", "ok" if match.report is not None else "failed")
        progress.finish("match")
    except CommandInterrupted as error:
        raise CommandInterrupted from error  # there is nothing to resume
    finally:
        progress.close()
        close_pools()
    found = best_first(found)
    if terminal.json:
        terminal.document(_document(folder, reference, shells, found))
    elif not terminal.quiet:
        _print_run(terminal, found, shells, top)


def _document(
    folder: Path, reference: Path, shells: Sequence[int], found: Sequence[RunMatch]
) -> dict[str, Any]:
    from packflow_core.analysis.matching import as_document

    return {
        "run": str(folder.resolve()),
        "reference": str(reference.resolve()),
        "criteria": [_criterion(name, text, found) for name, text in _criteria(shells)],
        "structures": [
            {
                **{name: match.row.get(name) for name in _ROW},
                "problem": match.problem,
                **(as_document(match.report) if match.report is not None else {}),
            }
            for match in found
        ],
    }


def _criteria(shells: Sequence[int]) -> list[tuple[str, str]]:
    """Names and meanings of the criteria, without those of clusters that were not asked for."""
    from packflow_core.analysis.matching import CRITERIA, SHELLS

    left_out = {f"rmsd{n}" for n in SHELLS if n not in shells}
    return [(name, text) for name, (text, _) in CRITERIA.items() if name not in left_out]


def _criterion(name: str, text: str, found: Sequence[RunMatch]) -> dict[str, Any]:
    """How many structures meet a criterion, and the best of them by energy."""
    rows: list[Row] = [m.row for m in found if m.report is not None and name in m.report.criteria]
    best = min(rows, key=lambda row: int(row["rank"]), default=None)
    return {
        "name": name,
        "meaning": text,
        "structures": len(rows),
        "of": len(found),
        "best_rank": None if best is None else int(best["rank"]),
        "best_candidate": None if best is None else best["candidate_id"],
        "lattice_energy_rel_kJ_mol": None if best is None else best["lattice_energy_rel_kJ_mol"],
    }


def _print_run(
    terminal: Terminal, found: Sequence[RunMatch], shells: Sequence[int], top: int
) -> None:
    from rich.text import Text

    table = _table("best matches")
    titles = ["rank", "candidate", "ΔE\nkJ/mol", "Δρ\n%", "RMSD1\nÅ"]
    titles += [f"of {n}\nÅ" for n in shells]
    for title in [*titles, "form", "PDD\nÅ", "SM\nÅ"]:
        table.add_column(title, justify="left" if title == "candidate" else "right", no_wrap=True)
    for match in found[:top]:
        row, report = match.row, match.report
        start = [str(row["rank"]), str(row["candidate_id"]),
                 _number(row.get("lattice_energy_rel_kJ_mol"))]  # fmt: skip
        if report is None:
            continue
        form = report.form
        cells = [*start, f"{report.density_percent:+.1f}", _number(report.rmsd1)]
        cells += [_shell(report, n) for n in shells]
        cells += [
            "" if form is None else f"{form.kinds_found}/{form.kinds} {_yes(form.same)}",
            _number(report.pdd_A),
            _number(report.structure_matcher_A),
        ]
        table.add_row(*map(Text, cells), style="bold green" if "form" in report.criteria else None)
    terminal.console().print(table)
    for match in found:
        if match.report is None:
            terminal.write(f"not compared: {match.row['candidate_id']}: {match.problem}")
    table = _table("criteria")
    for title in ("criterion", "structures", "best rank", "ΔE kJ/mol", "meaning"):
        table.add_column(title, justify="left" if title in ("criterion", "meaning") else "right")
    for name, text in _criteria(shells):
        met = _criterion(name, text, found)
        best = met["best_rank"]
        table.add_row(
            *map(Text, [name, f"{met['structures']} of {met['of']}",
                        "" if best is None else str(best),
                        _number(met["lattice_energy_rel_kJ_mol"]), text])
        )  # fmt: skip
    terminal.console().print(table)


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )


def _yes(met: bool) -> str:
    return "yes" if met else "no"


def _print_report(terminal: Terminal, report: MatchReport) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", show_header=False)
    lines = [
        *((f"RMSD{n}", _shell(report, n, " molecules, ") + " Å") for n in report.shells),
        ("RMSD1 (conformer)", _number(report.rmsd1) + " Å"),
        ("density", f"{report.density_percent:+.2f} %"),
        ("PDD distance", _number(report.pdd_A, 3) + " Å"),
        ("StructureMatcher", "no match" if report.structure_matcher_A is None
         else _number(report.structure_matcher_A, 3) + " Å"),
        ("heavy atoms overlap", f"{report.overlap_A:.2f} Å"),
    ]  # fmt: skip
    if report.form is not None:
        form = report.form
        lines.append(
            ("same form",
             f"{_yes(form.same)}: {form.kinds_found} of {form.kinds} kinds of "
             f"molecules found, worst cluster {form.n_matched} of {form.n_total}, "
             f"{_number(form.rmsd)} Å")
        )  # fmt: skip
    for name, value in lines:
        table.add_row(Text(name), Text(value))
    table.add_section()
    met = report.criteria
    for name, text in _criteria(list(report.shells)):
        table.add_row(Text(name), Text(f"{_yes(name in met)}: {text}"))
    terminal.console().print(table)
    if report.detail:
        terminal.say(report.detail)


def _shell(report: MatchReport, n: int, between: str = " ") -> str:
    match = report.shells.get(n)
    if match is None:
        return ""
    of = f" of {n}" if between != " " else ""
    return f"{match.n_matched}{of}{between}{_number(match.rmsd)}"


def _number(value: float | None, decimals: int = 2) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"
