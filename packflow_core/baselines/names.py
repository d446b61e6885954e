"""Names of the baselines, as `--generator` takes them and the column `method` has them."""

from __future__ import annotations

from typing import Literal

RANDOM = "random"
RANDOM_PRESS = "random+press"
GENARRIS_PLAIN = "genarris-plain"
GENARRIS_PRESS = "genarris-press"

#: Generators that are no PackFlow model. Their crystals have hydrogens.
BASELINES = (RANDOM, RANDOM_PRESS, GENARRIS_PLAIN, GENARRIS_PRESS)

Family = Literal["packflow", "random", "genarris"]


def family_of(generator: str) -> Family:
    """What makes the candidates of a generator; names that are no baseline are PackFlow models."""
    if generator in (RANDOM, RANDOM_PRESS):
        return "random"
    return "genarris" if generator in (GENARRIS_PLAIN, GENARRIS_PRESS) else "packflow"
