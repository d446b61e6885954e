"""Numbers of the PackFlow paper to stand beside ours; they come from other molecules.

Table 2: 312 crystals of its own test set (CSD), each by itself, with the element tables of
`metrics.PUBLISHED`; wall times on one V100 GPU, those of Genarris on 32 processors.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A line of table 2.

    Attributes:
        name: as printed.
        metrics: percent, percent, Å, Å and Å, in the order of `schema.METRICS`.
        wall_s: per proposal, s.
    """

    name: str
    metrics: tuple[float, float, float, float, float]
    wall_s: float


TABLE_2 = (
    PaperRow("Genarris Plain", (27.89, 0.28, 0.903, 0.114, 0.211), 0.120),
    PaperRow("Genarris Rigid Press", (19.77, 1.93, 0.541, 0.071, 0.118), 0.312),
    PaperRow("PackFlow-Base-2M", (5.89, 9.38, 0.367, 0.074, 0.149), 0.063),
    PaperRow("PackFlow-Base-20M", (5.30, 2.66, 0.291, 0.066, 0.114), 0.087),
    PaperRow("PackFlow-Base-60M", (4.69, 2.53, 0.286, 0.065, 0.114), 0.128),
    PaperRow("PackFlow-PA (λ = 0.5)", (5.39, 1.62, 0.278, 0.063, 0.104), 0.128),
)
#: The line that figures show.
PAPER_60M = TABLE_2[4]
