"""Figures of an evaluation, after fig. 3 and fig. E.1 of the PackFlow paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from packflow_core.chem.molecule import Molecule
from packflow_core.evaluation.evaluation import Evaluation
from packflow_core.evaluation.geometry import bonds_of_known_form, lattice_of
from packflow_core.evaluation.paper import PAPER_60M
from packflow_core.evaluation.schema import METRICS
from packflow_core.evaluation.style import (
    FAINT,
    GRID,
    KNOWN,
    TEXT,
    Series,
    dress,
    make_figure,
    plain_log,
)
from packflow_core.evaluation.summary import Document, groups
from packflow_core.evaluation.targets import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]
#: Values of one target, which count as much together as those of any other.
Values = list[FloatArray]

#: Titles and units of the metrics, in the order of `schema.METRICS`.
_METRIC_TITLES = (
    "density error, %", "clashes, %", "AMD distance, Å", "RDF distance, Å",
    "RDF distance, short, Å",
)  # fmt: skip


# -- geometry (fig. 3) --------------------------------------------------------------------------
def geometry_figure(evaluation: Evaluation, series: Sequence[Series]) -> Figure:
    """Distributions of bond lengths, bond angles, lattice lengths and lattice angles."""
    panels: list[tuple[str, str, int, str, Callable[[FloatArray], FloatArray]]] = [
        ("(a) bond lengths", "Å", 80, "bond_lengths_A", lambda v: v),
        ("(b) bond angles", "degrees", 80, "bond_angles_deg", lambda v: v),
        ("(c) lattice lengths", "Å", 40, "lattice_A_deg", lambda v: _halves(v)[:, 0].ravel()),
        ("(d) lattice angles", "degrees", 60, "lattice_A_deg", lambda v: _halves(v)[:, 1].ravel()),
    ]  # fmt: skip
    known = _known_geometry(evaluation.targets)
    tables = {(generator, variant): table for generator, variant, table in groups(evaluation)}
    figure = make_figure(10.5, 7.6)
    for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        title, unit, bins, column, part = panel
        reference = [part(values) for values in known[column]]
        drawn = [
            (s, [part(v) for v in _values(tables[s.generator, s.variant], column)]) for s in series
        ]
        edges = _edges(reference or [v for _, values in drawn for v in values], bins)
        if reference:
            heights, _ = _density(reference, edges)
            axes.stairs(heights, edges, fill=True, color=KNOWN, label="known forms")
        beyond = []
        for s, values in drawn:
            heights, outside = _density(values, edges)
            axes.stairs(
                heights, edges, color=s.colour, linestyle=s.line, linewidth=1.3, label=s.label
            )
            if outside >= 0.01:
                beyond.append(f"{s.label}: {outside:.0%} outside")
        axes.text(
            0.99, 0.98, "\n".join(beyond), transform=axes.transAxes, ha="right", va="top",
            fontsize=7, color=FAINT, parse_math=False,
        )  # fmt: skip
        dress(axes, title, unit, "probability density")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    _headline(figure, evaluation, "Geometry of proposals and known forms; molecules count equally")
    return figure


def _halves(lattices: FloatArray) -> FloatArray:
    """[n, 2, 3] lengths and angles of n lattices."""
    return lattices.reshape(-1, 2, 3)


def _values(table: pd.DataFrame, column: str) -> Values:
    """Values of the measured proposals of a generator and variant, target by target."""
    measured = table[table["status"] == "ok"]
    return [
        np.concatenate([np.asarray(v, dtype=np.float64) for v in own[column]])
        for _, own in measured.groupby("target", sort=False)
    ]


def _known_geometry(targets: Sequence[Target]) -> dict[str, Values]:
    """Values of the known forms by column; forms whose bonds are not the molecule's have none."""
    found: dict[str, Values] = {"bond_lengths_A": [], "bond_angles_deg": [], "lattice_A_deg": []}
    for target in targets:
        n_bonds = len(Molecule.from_smiles(target.smiles).bonds)
        found["lattice_A_deg"].append(
            np.concatenate([lattice_of(form.crystal.cell) for form in target.forms])
        )
        bonds = [bonds_of_known_form(form.crystal, n_bonds) for form in target.forms]
        sound = [pair for pair in bonds if pair is not None]
        if sound:
            found["bond_lengths_A"].append(np.concatenate([lengths for lengths, _ in sound]))
            found["bond_angles_deg"].append(np.concatenate([angles for _, angles in sound]))
    return found


def _edges(values: Values, bins: int) -> FloatArray:
    """Edges of bins over the range of the values and a tenth of it on either side."""
    every = np.concatenate([*values, np.empty(0)])
    every = every[np.isfinite(every)]
    if not len(every):
        return np.linspace(0.0, 1.0, bins + 1)
    low, high = float(every.min()), float(every.max())
    margin = 0.1 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, bins + 1)


def _density(values: Values, edges: FloatArray) -> tuple[FloatArray, float]:
    """Mean over targets of their histograms, as a density, and the fraction outside the bins."""
    counts = np.array([np.histogram(v, edges)[0] / max(len(v), 1) for v in values if len(v)])
    if not len(counts):
        return np.zeros(len(edges) - 1), 0.0
    mean = counts.mean(axis=0)
    return mean / np.diff(edges), float(1.0 - mean.sum())


# -- sample efficiency (fig. E.1) ---------------------------------------------------------------
def efficiency_figure(
    evaluation: Evaluation, series: Sequence[Series], table: pd.DataFrame
) -> Figure:
    """The best AMD distance and the targets found against samples and time."""
    near_A = evaluation.settings.near_A
    figure = make_figure(13.0, 4.4)
    by_samples, by_time, found = figure.subplots(1, 3)
    for s in series:
        own = table[(table["generator"] == s.generator) & (table["variant"] == s.variant)]
        if own.empty:
            continue
        look = {"color": s.colour, "linestyle": s.line, "linewidth": 1.6}
        band = {"color": s.colour, "alpha": 0.10, "linewidth": 0}
        low, high = own["best_amd_low_A"], own["best_amd_high_A"]
        by_samples.plot(own["samples"], own["best_amd_linf_A"], label=s.label, **look)
        by_samples.fill_between(own["samples"], low, high, **band)
        by_time.plot(own["seconds"], own["best_amd_linf_A"], label=s.label, **look)
        found.plot(own["samples"], 100.0 * own["near"], label=s.label, **look)
        found.fill_between(
            own["samples"], 100.0 * own["near_low"], 100.0 * own["near_high"], **band
        )
    for axes in (by_samples, by_time):
        axes.axhline(near_A, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set_ylim(bottom=0)
    dress(by_samples, "(a) best of so many samples", "samples of a target", "AMD distance, Å")
    dress(by_time, "(b) in so much time", "time of drawing and repair, s", "AMD distance, Å")
    dress(found, f"(c) a known form within {near_A:g} Å", "samples of a target", "targets, %")
    found.set_ylim(0, 100)
    for axes in (by_samples, by_time, found):
        plain_log(axes)
    by_samples.legend(fontsize=7.5, frameon=False)
    _headline(figure, evaluation, "Sample efficiency, mean over targets")
    return figure


# -- the table as a picture ---------------------------------------------------------------------
def metrics_figure(evaluation: Evaluation, series: Sequence[Series], document: Document) -> Figure:
    """The five metrics with their intervals, and what the paper has on its own test set."""
    lines = {(line["generator"], line["variant"]): line for line in document["results"]}
    figure = make_figure(14.0, 1.6 + 0.34 * len(series))
    panels = figure.subplots(1, len(METRICS), sharey=True)
    places = np.arange(len(series))
    for axes, name, title, paper in zip(
        panels, METRICS, _METRIC_TITLES, PAPER_60M.metrics, strict=True
    ):
        axes.axvline(paper, color=FAINT, linewidth=1.0, linestyle=(0, (3, 2)))
        for place, s in zip(places, series, strict=True):
            value = lines[s.generator, s.variant][name]
            _dot(axes, float(place), value, s)
        dress(axes, title, "", "")
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=4)
        axes.set_yticks(places, [s.label for s in series])
        axes.set_ylim(len(series) - 0.5, -0.5)
    _headline(
        figure,
        evaluation,
        f"Mean over targets of the mean over proposals; dashed: {PAPER_60M.name} in the paper, "
        "other molecules",
    )
    return figure


def _dot(axes: Axes, place: float, value: dict[str, float | None], s: Series) -> None:
    mean, low, high = value["mean"], value["low"], value["high"]
    if mean is None:
        return
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=s.colour, linewidth=1.4)
    axes.plot([mean], [place], s.marker, color=s.colour, markersize=5.5, clip_on=False, zorder=3)


# -- targets one by one -------------------------------------------------------------------------
def targets_figure(evaluation: Evaluation, series: Sequence[Series], table: pd.DataFrame) -> Figure:
    """The best proposal of every target; `table` has the columns of `schema.TARGETS`."""
    names = [target.name for target in evaluation.targets]
    best = table.groupby("target")["best_amd_linf_A"].min()
    order = sorted(names, key=lambda name: (np.isnan(best[name]), best[name], name))
    figure = make_figure(8.5, 1.9 + 0.2 * len(order))
    axes = figure.add_subplot()
    axes.axvline(evaluation.settings.near_A, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
    for s in series:
        own = table[(table["generator"] == s.generator) & (table["variant"] == s.variant)]
        value = own.set_index("target")["best_amd_linf_A"].reindex(order)
        axes.plot(
            value.to_numpy(np.float64), np.arange(len(order)), s.marker, color=s.colour,
            markersize=5, label=s.label, fillstyle="full" if s.line == "-" else "none",
        )  # fmt: skip
    dress(axes, "best proposal of each target", "AMD distance to the nearest known form, Å", "")
    axes.set_yticks(np.arange(len(order)), order, fontsize=7.5)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)
    _headline(figure, evaluation, "")
    return figure


def _headline(figure: Figure, evaluation: Evaluation, text: str) -> None:
    settings = evaluation.settings
    molecules = len({target.molecule_name for target in evaluation.targets})
    seeds = f", {len(settings.seeds)} seeds" if len(settings.seeds) > 1 else ""
    counts = f"{molecules} molecules, {settings.n} proposals each{seeds}"
    figure.suptitle(
        f"{text}\n{counts}" if text else counts, x=0.01, ha="left", fontsize=10.5, color=TEXT,
        parse_math=False,
    )  # fmt: skip
