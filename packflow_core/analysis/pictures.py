"""Small vector pictures for the report: the molecule, and the packing of a crystal.

Both are SVG text with nothing in it but numbers and fixed words, ready to stand inside a page.
Black becomes ``currentColor``, so that the pictures follow a light or dark page.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import neighbour_pairs
from packflow_core.crystal.crystal import Crystal

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Element colours that stay visible on white and on near-black, after the CPK convention;
#: carbon takes the colour of the text.
_COLOURS = {
    1: "#a7b0ba", 5: "#d98b6a", 7: "#3f6fe0", 8: "#e03b3b", 9: "#3fae49", 14: "#c2a05a",
    15: "#e0852a", 16: "#c9a800", 17: "#2aa84a", 33: "#9a62c7", 34: "#d18f00", 35: "#a84a3a",
    53: "#8a4fbf",
}  # fmt: skip
_BOND_SLACK_A = 0.3
#: How far beyond the cell, in fractions of it, molecules are drawn for context.
_MARGIN = 0.12
_MAX_ATOMS = 1500


def molecule_svg(molecule: Molecule, width: int = 300, height: int = 210) -> str:
    """Skeletal formula of a molecule as an SVG element."""
    from rdkit.Chem import Draw
    from rdkit.Chem.Draw import rdMolDraw2D

    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = drawer.drawOptions()
    options.clearBackground = False
    options.padding = 0.06
    options.bondLineWidth = 2
    Draw.rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule.rdmol)
    drawer.FinishDrawing()
    text = str(drawer.GetDrawingText())
    # Namespaces other than SVG's own mean nothing inside a page.
    svg = re.sub(r"\sxmlns:\w+='[^']*'", "", text[text.index("<svg") :])
    for black in ("#000000", "#3B4143"):
        svg = svg.replace(black, "currentColor")
    return svg.replace("#0000FF", "#3f6fe0").replace("#FF0000", "#e03b3b").replace("\n", " ")


def packing_svg(crystal: Crystal, width: int = 300, hydrogens: bool = False) -> str:
    """Projection of a crystal along its shortest cell axis, with the outline of the cell.

    Every molecule whose centroid lies in the cell (or just beyond an edge of the projection) is
    drawn, far atoms first and paler.

    Args:
        crystal: molecules whole.
        width: of the picture in pixels.
        hydrogens: draw them too.
    """
    atoms = crystal if hydrogens else crystal.heavy_only()
    lengths = np.linalg.norm(atoms.cell, axis=1)
    along = int(np.argmin(lengths))
    # The longer of the two other axes lies flat, which uses the width of a page.
    flat = sorted((k for k in range(3) if k != along), key=lambda k: -lengths[k])
    view = _view(atoms.cell, along, flat)
    numbers, positions = _molecules_in_view(atoms, along)
    bonds = bonds_between(numbers, positions)
    xyz = positions @ view.T
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ atoms.cell[flat] @ view.T
    return _draw(numbers, xyz, bonds, corners, width=width, axes=("abc"[flat[0]], "abc"[flat[1]]))


def _view(cell: FloatArray, along: int, flat: list[int]) -> FloatArray:
    """Rotation [3, 3] whose rows are right, up and towards the viewer."""
    towards = cell[along] / np.linalg.norm(cell[along])
    right = cell[flat[0]] - (cell[flat[0]] @ towards) * towards
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def _molecules_in_view(crystal: Crystal, along: int) -> tuple[IntArray, FloatArray]:
    """Atomic numbers and positions of the molecules of one layer of cells."""
    whole = crystal.wrapped()
    molecules = whole.positions.reshape(whole.z, -1, 3)
    centroid = molecules.mean(axis=1) @ np.linalg.inv(whole.cell)
    steps = [np.array([0]) if k == along else np.array([-1, 0, 1]) for k in range(3)]
    shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    image = centroid[None] + shifts[:, None]
    margin = np.where(np.arange(3) == along, 0.0, _MARGIN)
    inside = ((image > -margin - 1e-6) & (image < 1 + margin + 1e-6)).all(axis=-1)
    shift, molecule = np.nonzero(inside)
    per_molecule = molecules.shape[1]
    if len(molecule) * per_molecule > _MAX_ATOMS:
        home = np.flatnonzero(~shifts[shift].any(axis=1))
        shift, molecule = shift[home], molecule[home]
    moved = molecules[molecule] + (shifts[shift] @ whole.cell)[:, None]
    numbers = whole.numbers.reshape(whole.z, -1)[molecule]
    return numbers.reshape(-1), moved.reshape(-1, 3)


def bonds_between(numbers: IntArray, positions: FloatArray) -> IntArray:
    """[nb, 2] bonds by distance between atoms of whole molecules, without periodic images."""
    radii = COVALENT_RADII[numbers]
    box = np.eye(3) * (np.ptp(positions, axis=0).max() + 10.0)
    pairs = neighbour_pairs(positions, box, 2.0 * float(radii.max()) + _BOND_SLACK_A)
    near = pairs.distance < radii[pairs.i] + radii[pairs.j] + _BOND_SLACK_A
    keep = near & (pairs.i < pairs.j) & ~pairs.shift.any(axis=1)
    both_h = (numbers[pairs.i] == 1) & (numbers[pairs.j] == 1)
    found: IntArray = np.stack([pairs.i, pairs.j], axis=1)[keep & ~both_h]
    return found


def _draw(
    numbers: IntArray,
    xyz: FloatArray,
    bonds: IntArray,
    corners: FloatArray,
    *,
    width: int,
    axes: tuple[str, str],
) -> str:
    low = np.minimum(xyz[:, :2].min(axis=0), corners[:, :2].min(axis=0)) - 1.2
    high = np.maximum(xyz[:, :2].max(axis=0), corners[:, :2].max(axis=0)) + 1.2
    scale = width / (high[0] - low[0])
    height = scale * (high[1] - low[1])
    depth = xyz[:, 2]
    near = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-9)

    def place(point: FloatArray) -> tuple[float, float]:
        return scale * float(point[0] - low[0]), height - scale * float(point[1] - low[1])

    items: list[tuple[float, str]] = []
    for i, j in bonds:
        middle = 0.5 * (xyz[i] + xyz[j])
        for end in (i, j):
            (x1, y1), (x2, y2) = place(xyz[end]), place(middle)
            items.append(
                (
                    float(xyz[end, 2]) - 0.01,
                    f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                    f'stroke="{_colour(int(numbers[end]))}" opacity="{_opacity(near[end])}"/>',
                )
            )
    for i, number in enumerate(numbers):
        x, y = place(xyz[i])
        radius = scale * (0.16 if number == 1 else 0.28 * float(COVALENT_RADII[number]) ** 0.5)
        items.append(
            (
                float(depth[i]),
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" '
                f'fill="{_colour(int(number))}" opacity="{_opacity(near[i])}"/>',
            )
        )
    items.sort(key=lambda item: item[0])
    outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, corners))
    origin, end_first, opposite, end_second = (np.array(place(corner)) for corner in corners)
    centre = 0.5 * (origin + opposite)
    labels = "".join(
        _axis_label(origin, end, centre, name)
        for end, name in zip((end_first, end_second), axes, strict=True)
    )
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" '
        'xmlns="http://www.w3.org/2000/svg" role="img">'
        f'<g stroke-width="{max(1.2, 0.16 * scale):.1f}" stroke-linecap="round">'
        + "".join(text for _, text in items)
        + f'</g><polygon points="{outline}" fill="none" stroke="currentColor" '
        f'stroke-width="1.2" stroke-dasharray="5 3" opacity="0.75"/>{labels}</svg>'
    )


def _axis_label(origin: FloatArray, end: FloatArray, centre: FloatArray, name: str) -> str:
    """Name of a cell axis, beside its middle and outside of the cell."""
    middle = 0.5 * (origin + end)
    x, y = middle + 11.0 * (middle - centre) / max(float(np.linalg.norm(middle - centre)), 1e-9)
    return (
        f'<text x="{x:.1f}" y="{y + 4:.1f}" fill="currentColor" font-size="13" '
        f'font-style="italic" text-anchor="middle">{name}</text>'
    )


def _colour(number: int) -> str:
    return _COLOURS.get(number, "currentColor")


def _opacity(near: float) -> str:
    return f"{0.45 + 0.55 * near:.2f}"
