"""The landscape of a page: points lie where the axes say, and the script can name them."""

import re

import pytest

from packflow_core.analysis.landscape import LandscapeOptions
from packflow_core.analysis.landscape_svg import landscape_svg, symbol_spans, ticks
from packflow_core.analysis.pxrd_svg import pxrd_svg


def candidate(k, energy, density, **more):
    return {
        "rank": k, "candidate_id": f"c-{k}", "lattice_energy_rel_kJ_mol": energy, "cluster": k,
        "density_g_cm3": density, "space_group": "P-1", "representative": True, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 10.0, ["0", "2", "4", "6", "8", "10"]),
        (1.81, 1.91, ["1.82", "1.84", "1.86", "1.88", "1.90"]),
        (-3.0, 63.0, ["0", "20", "40", "60"]),
        (-0.1, 0.26, ["-0.1", "0.0", "0.1", "0.2"]),
    ],
)
def test_ticks_are_round_and_inside(low, high, labels):
    found = ticks(low, high, 5)
    assert [label for _, label in found] == labels
    assert [value for value, _ in found] == pytest.approx([float(label) for label in labels])


def test_points_lie_between_the_ticks_that_bound_them():
    rows = [candidate(k, energy, 1.2 + 0.01 * k) for k, energy in enumerate([0.0, 7.5, 20.0], 1)]
    drawn = landscape_svg(rows, LandscapeOptions())
    at = {
        float(value): float(y) - 4
        for y, value in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', drawn.svg)
    }
    # Energies are linear in the height, upwards.
    slope = (at[20.0] - at[0.0]) / 20.0
    assert slope < 0
    assert drawn.data["y"] == pytest.approx([at[0.0] + slope * e for e in (0, 7.5, 20)], abs=0.2)
    assert drawn.data["x"] == sorted(drawn.data["x"])


def test_the_data_follow_the_rank_and_the_window():
    rows = [
        candidate(2, 3.0, 1.4, representative=False, cluster=1, matches_reference=True, match_n=15,
                  match_rmsd_A=0.2),
        candidate(3, 99.0, 1.1),
        candidate(1, 0.0, 1.5, cluster_size=2, lattice_energy_kJ_mol=-80.04,
                  matches_reference=False),
        {"candidate_id": "no", "rank": None, "lattice_energy_rel_kJ_mol": None},
    ]  # fmt: skip
    drawn = landscape_svg(rows, LandscapeOptions(reference_density=1.3, window_kJ_mol=50.0))
    data = drawn.data
    assert {len(values) for values in data.values()} == {2}
    assert data["id"] == ["c-1", "c-2"]
    assert data["kept"] == [1, 0]
    assert data["lattice"] == [-80.0, None]
    assert data["match"] == ["no", "yes 0.20"]
    assert "1 candidate above 50 kJ/mol not shown" in drawn.svg
    assert drawn.svg.count('class="star"') == 2  # the point and its line in the legend
    assert "duplicate" in drawn.svg
    assert drawn.svg.count('class="reference"') == 2


def test_the_size_grows_with_a_path_per_series_not_with_elements():
    rows = [candidate(k, 0.004 * k, 1.2 + 1e-5 * k) for k in range(1, 10_001)]
    svg = landscape_svg(rows, LandscapeOptions()).svg
    assert svg.count("<path") < 60
    assert len(svg) < 700_000


def test_nothing_to_draw_is_nothing():
    assert landscape_svg([], LandscapeOptions()).svg == ""
    assert pxrd_svg([]) == ""
    assert pxrd_svg([{"rank": 1, "intensity": None}]) == ""


def test_symbols_are_escaped_and_set():
    assert "<tspan" in symbol_spans("P2_1/c")
    assert "overline" in symbol_spans("P-1")
    assert symbol_spans("<b>") == "&lt;b&gt;"


def test_no_peak_of_a_pattern_is_lost():
    heights = [0.0] * 9000
    heights[4001] = 100.0
    row = {"rank": 1, "space_group": "P-1", "start_deg": 3.0, "step_deg": 0.005,
           "intensity": heights, "similarity_scaled": 0.98765}  # fmt: skip
    svg = str(pxrd_svg([row]))
    points = [tuple(map(float, p.split(","))) for p in
              re.search(r'points="([^"]+)"', svg).group(1).split()]  # fmt: skip
    assert len(points) <= 1200
    (peak,) = [p for p in points if p[1] < 30]
    assert peak[1] == min(p[1] for p in points)
    share = (peak[0] - points[0][0]) / (points[-1][0] - points[0][0])
    assert share == pytest.approx(4001 / 9000, abs=1e-3)
    assert "likeness 0.988" in svg
