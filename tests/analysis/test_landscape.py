"""What the landscape shows, read from the figure's own objects."""

import sys

import matplotlib.collections as mc
import numpy as np
import pytest

from packflow_core.analysis.landscape import (
    LandscapeOptions,
    landscape_bytes,
    landscape_figure,
    landscape_png,
)


def row(k, energy, density=1.5, group="P1", **more):
    return {
        "rank": k, "candidate_id": f"c{k}", "lattice_energy_rel_kJ_mol": energy,
        "density_g_cm3": density, "space_group": group, "representative": True,
        "matches_reference": None, "match_rmsd_A": None, **more,
    }  # fmt: skip


def points(figure):
    found = [c for c in figure.axes[0].collections if isinstance(c, mc.PathCollection)]
    return np.concatenate([c.get_offsets() for c in found]) if found else np.empty((0, 2))


def texts(figure):
    return [t.get_text() for t in figure.axes[0].texts]


def labels(figure):
    legend = figure.axes[0].get_legend()
    return [t.get_text() for t in legend.get_texts()]


def test_every_ranked_candidate_is_drawn_and_no_other():
    rows = [row(1, 0.0, 1.6), row(2, 3.0, 1.5, "P2_1/c"), {**row(3, 0.0), "rank": None}]
    rows[2]["lattice_energy_rel_kJ_mol"] = None
    drawn = points(landscape_figure(rows))
    assert sorted(map(tuple, drawn)) == [(1.5, 3.0), (1.6, 0.0)]


def test_the_window_says_how_many_are_left_out():
    figure = landscape_figure([row(1, 0.0), row(2, 61.0), row(3, 80.0)])
    assert len(points(figure)) == 1
    assert texts(figure) == ["2 candidates above 60 kJ/mol not shown"]
    figure = landscape_figure([row(1, 0.0), row(2, 61.0)], LandscapeOptions(window_kJ_mol=100))
    assert texts(figure) == []
    low, high = figure.axes[0].get_ylim()
    assert low < 0 < 61 < high


def test_space_groups_beyond_five_are_other():
    groups = ["P1", "P1", "P-1", "P2_1/c", "C2/c", "Pbca", "Pnma", "Pca2_1"]
    figure = landscape_figure([row(k + 1, float(k), group=g) for k, g in enumerate(groups)])
    assert len(labels(figure)) == 6
    assert labels(figure)[0] == r"$\mathit{P}1$ (2)"
    assert labels(figure)[-1] == "other (2)"
    assert r"$\mathit{P}2_1/\mathit{c}$ (1)" in labels(figure)
    assert r"$\mathit{P}\overline{1}$ (1)" in labels(figure)


def test_duplicates_are_hollow():
    figure = landscape_figure([row(1, 0.0), row(2, 1.0, representative=False)])
    faces = [len(c.get_facecolors()) for c in figure.axes[0].collections]
    assert sorted(faces) == [0, 1]
    assert "duplicate" in labels(figure)


def test_the_match_is_starred_named_and_inside_the_axes():
    rows = [row(k, float(k - 1), 1.4 + 0.01 * k) for k in range(1, 20)]
    rows[3] |= {"matches_reference": True, "match_rmsd_A": 0.213}
    options = LandscapeOptions(reference_density=1.7, reference_label="form I")
    figure = landscape_figure(rows, options)
    assert texts(figure) == ["matches form I\nrank 4, RMSD 0.21 Å"]
    assert {"match", "form I density"} <= set(labels(figure))
    low, high = figure.axes[0].get_xlim()
    assert low < 1.7 < high
    figure.draw_without_rendering()
    box = figure.axes[0].texts[0].get_window_extent()
    axes = figure.axes[0].get_window_extent()
    assert axes.x0 <= box.x0
    assert box.x1 <= axes.x1
    pixels = figure.axes[0].transData.transform(points(figure))
    covered = (pixels > [box.x0, box.y0]).all(axis=1) & (pixels < [box.x1, box.y1]).all(axis=1)
    assert not covered.any()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("rows", [[], [row(1, 0.0)], [row(1, 0.0), row(2, 0.0)]])
def test_few_candidates_still_make_a_picture(tmp_path, rows, theme):
    path = landscape_png(rows, tmp_path / "l.png", LandscapeOptions(title="t", theme=theme))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_user_text_is_not_mathematics():
    options = LandscapeOptions(
        title="$x_", subtitle="a" * 400, reference_label="$\\frac{", reference_density=1.5
    )
    assert landscape_bytes([row(1, 0.0, group="$odd")], options).startswith(b"\x89PNG")


def test_the_same_rows_give_the_same_bytes_without_pyplot():
    rows = [row(k, float(k), 1.4 + 0.02 * k) for k in range(1, 9)]
    assert landscape_bytes(rows) == landscape_bytes(rows)
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )
