"""The comparison as a page of Markdown, from its document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packflow_core.race import tables
from packflow_core.race.metrics import METRICS
from packflow_core.race.tables import Document, Numbers, Table, numeric

_CAPTIONS = {
    "race": "All panels in one figure",
    "race_density_before": "Densities at the start of the full relaxation",
    "race_density_after": "Densities of the ranked structures",
    "race_energy_before": "Energies per molecule at the start of the full relaxation",
    "race_energy_after": "Energies per molecule of the ranked structures",
    "race_landscape": "Density and energy of the ranked structures",
    "race_samples": "Expected lowest energy after so many candidates",
    "race_compute": "Expected lowest energy after so much work",
    "race_outcomes": "What became of the candidates",
    "race_hits": "Hits per hour",
    "race_low_energy": "Structures inside the window per hour",
    "race_basins": "Distinct structures inside the window",
}


def markdown(document: Document, figures: Mapping[str, str]) -> str:
    """The page.

    Args:
        document: of the comparison.
        figures: names of files beside the page, by name of the figure; none are shown where empty.
    """
    numbers = Numbers(document)
    z = ", ".join(map(str, document["z"]))
    remarks = [f"- {remark}" for remark in document["remarks"]]
    lines = [
        f"# {_text(document['target'])}: {' against '.join(map(_text, numbers.legs))}",
        "",
        f"`{document['smiles']}`, Z {z}, energies by {_text(document['engine'])}.",
        "",
        document["budget"]["description"],
        "",
        *([*remarks, ""] if remarks else []),
        *([f"![{_CAPTIONS['race']}]({figures['race']})", ""] if "race" in figures else []),
        f"Brackets hold intervals of {document['settings']['confidence']:.0%}. Energies are in "
        "kJ/mol per molecule above the lowest ranked structure of all legs, densities in g/cm³.",
        "",
        "## What became of the candidates",
        *_table(tables.outcome_table(numbers)),
        *_table(tables.loss_table(document)),
        "## Energies",
        *_table(tables.energy_table(numbers)),
        *_table(tables.median_table(numbers)),
        *_known_form(document["known_form"]),
        "## Densities",
        *_table(tables.density_table(numbers)),
        "## What was found",
        *_table(tables.found_table(numbers)),
        f"Basins are distinct structures within {numbers.window} of the lowest of all legs.",
        "",
        *_table(tables.basin_table(numbers)),
        *_table(tables.overlap_table(numbers)),
        "## Differences",
        *_table(tables.difference_table(numbers)),
        *(["## Figures"] if figures else []),
        *(f"- [{_CAPTIONS.get(name, name)}]({file})" for name, file in figures.items()),
        *([""] if figures else []),
        *_methods(document["settings"]),
        "## Where the numbers come from",
        *_table(_provenance(document)),
        f"Compared by packflow-csp {document['versions']['packflow-csp']}, {document['written']}.",
    ]
    return "\n".join(lines) + "\n"


def _known_form(known: dict[str, Any] | None) -> list[str]:
    if known is None:
        return []
    text = f"The known form has {known['density_g_cm3']:.3f} g/cm³."
    if known["energy_kJ_mol"] is not None:
        energy = known["energy_kJ_mol"]
        side = "above" if energy >= 0 else "below"
        text += (
            f" Relaxed like a candidate it has {known['relaxed_density_g_cm3']:.3f} g/cm³ and lies "
            f"{abs(energy):.2f} kJ/mol {side} the lowest structure of the race"
        )
        if known["match_rmsd_A"] is not None:
            text += f", {known['match_rmsd_A']:.2f} Å (RMSD) from the CIF"
        text += "."
    return [text, ""]


def _methods(settings: dict[str, Any]) -> list[str]:
    confidence = f"{settings['confidence']:.0%}"
    return [
        "## How the numbers are made",
        f"- bootstrap: percentiles of {settings['resamples']} resamples of the candidates, seed "
        f"{settings['seed']}. The lowest energy of a resample is never below that of the leg.",
        "- bootstrap, scaled (overlap of basins): the same, times what they fall short of, for "
        "resamples hold some candidates twice and so share fewer basins.",
        "- jackknife (counts of basins): from the candidates that are alone in their basin.",
        "- binomial: Clopper and Pearson. Poisson: Garwood; without an event the upper bound that "
        f"this leaves at {confidence}.",
        "- Expected lowest energies are exact means over all orders of the candidates that found "
        "something; drawn thin where fewer than 95% of the orders did.",
        "- Hours are working time, from the generation to the last relaxation; lost candidates "
        "cost, too.",
        "",
        *_table(
            (
                ["number", "unit", "meaning"],
                [[f"`{name}`", unit or "", text] for name, (unit, text) in METRICS.items()],
            )
        ),
    ]


def _provenance(document: Document) -> Table:
    titles = ["leg", "run folder", "spec", "seed", "generator", "run", "complete", "compared",
              "packflow-csp", "machine", "device"]  # fmt: skip
    rows = []
    for leg in document["legs"]:
        sizes = [str(leg["candidates"][key]) for key in ("run", "complete", "compared")]
        rows.append([
            leg["name"], f"`{leg['folder']}`", f"`{str(leg['spec_hash'])[:12]}`",
            str(leg["seed"]), _short_hash(leg["generator"]), *sizes,
            str(leg["versions"].get("packflow-csp", "unknown")),
            ", ".join(leg["hosts"]) or "unknown", ", ".join(leg["devices"]) or "unknown",
        ])  # fmt: skip
    return titles, rows


def _table(table: Table) -> list[str]:
    """A table with an empty line behind it; nothing where it has no rows."""
    titles, rows = table
    if not rows:
        return []
    sides = ["---:" if numeric(cells) else "---" for cells in zip(*rows, strict=True)]
    return [
        "| " + " | ".join(titles) + " |",
        "|" + "|".join(sides) + "|",
        *("| " + " | ".join(map(_text, row)) + " |" for row in rows),
        "",
    ]


def _short_hash(identity: str) -> str:
    """An identity with the first twelve digits of its hash."""
    name, colon, digits = identity.partition("sha256:")
    return f"{name}{colon}{digits[:12]}"


def _text(text: str) -> str:
    """User text in a table: no column separators, one line."""
    return " ".join(text.split()).replace("|", "\\|")
