"""The models that have a name: what they are, whose they are, and where their files lie.

Imports no torch. Nothing is downloaded here, see `packflow_core.model.zoo_download`.

A file is looked for in this order: in the package; in `models_folder()`, where downloads go and
where a file may be put by hand; in the cache of the Hugging Face tools. Every model of others has
a record of its hash beside its file (`packflow_core.model.zoo_records`): the authors publish none,
so the first download is trusted and every later look is compared with it.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from packflow_core.errors import UserInputError
from packflow_core.model.zoo_records import Record, read_record, sha256_of_file

DEFAULT_MODEL = "packflow-open"

#: The published checkpoints; PACKFLOW_HF_REPO names a mirror, as in the published code.
HF_REPO = "aksub99/packflow-checkpoints"
_PAPER = "Subramanian et al., PackFlow (arXiv:2602.20140)"
_PUBLISHED_LICENCE = "CC BY-NC 4.0"
_PUBLISHED_TERMS = (
    "Not for commercial use: the weights were trained on the Cambridge Structural Database; for "
    "commercial use the authors ask for a licence of the CCDC. Their code is under the MIT licence."
)
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class ZooModel:
    """A model that can be named.

    Attributes:
        name: what `--generator` takes.
        summary: what it is, in a few words.
        preset: open or official.
        parameters: their number.
        licence: of the weights, short.
        terms: what the licence means, in a sentence.
        source: who made it.
        shipped: file in the package; empty where it has to be fetched.
        hub_file: file in the repository on Hugging Face; empty for none.
        url: address of a file that is elsewhere; empty for none.
        sha256: of the file; empty where the authors publish none.
        size_MB: of the file, about.
        aliases: other names.
    """

    name: str
    summary: str
    preset: str
    parameters: int
    licence: str
    terms: str
    source: str
    shipped: str = ""
    hub_file: str = ""
    url: str = ""
    sha256: str = ""
    size_MB: float = 0.0
    aliases: tuple[str, ...] = ()


def _published(
    name: str, folder: str, parameters: int, summary: str, aliases: tuple[str, ...] = ()
) -> ZooModel:
    return ZooModel(
        name=name,
        summary=summary,
        preset="official",
        parameters=parameters,
        licence=_PUBLISHED_LICENCE,
        terms=_PUBLISHED_TERMS,
        source=_PAPER,
        hub_file=f"{folder}/best_model.pt",
        # weights and the two moments of the optimiser, in float32
        size_MB=round(12e-6 * parameters, 1),
        aliases=aliases,
    )


def _shipped(name: str, summary: str, sha256: str) -> ZooModel:
    return ZooModel(
        name=name,
        summary=summary,
        preset="open",
        parameters=4_643_313,
        licence="MIT",
        terms="Free to use, also commercially; trained on open data alone.",
        source="packflow-csp",
        shipped=f"{name}.safetensors",
        sha256=sha256,
        size_MB=9.3,
    )


ZOO: dict[str, ZooModel] = {
    entry.name: entry
    for entry in (
        _shipped(
            "packflow-open",
            "open model of this project, trained on open data",
            "2b08e7b3aabe280bc76f515cc600f682238c46fc77813b26f432790848b4c4ce",
        ),
        _shipped(
            "packflow-open-pa",
            "packflow-open aligned with energies and forces of gfnff",
            "10ff3a269a04d739118c70cf62ea3b08d23af32f3fc91773ceee8bccb2095adc",
        ),
        _published("packflow-2M", "packflow-2M", 2_610_649, "published base model, smallest"),
        _published("packflow-20M", "packflow-20M", 15_566_489, "published base model, middle"),
        _published(
            "packflow-60M",
            "packflow-ddp",
            62_057_181,
            "published base model of the paper",
            aliases=("packflow-ddp",),
        ),
        _published(
            "packflow-pa",
            "packflow-pa",
            62_057_181,
            "packflow-60M aligned by reinforcement learning with energies",
        ),
    )
}


def entry(name: str) -> ZooModel | None:
    """The model of a name or alias, None for anything else."""
    for model in ZOO.values():
        if name == model.name or name in model.aliases:
            return model
    return None


def is_named(name: str) -> bool:
    """Whether a text is the name of a model; a file that is called so is written as a path."""
    return entry(name) is not None


def named(name: str) -> ZooModel:
    """The model of a name or alias.

    Raises:
        UserInputError: there is none.
    """
    if found := entry(name):
        return found
    names = [*ZOO, *(alias for model in ZOO.values() for alias in model.aliases)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"models are {', '.join(ZOO)}."
    raise UserInputError(f"'{name}' is not the name of a model; {hint}")


def models_folder() -> Path:
    """Where downloaded models are kept: packflow-csp/models in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The standard of these variables says that relative paths are to be ignored.
    root = Path(cache) if os.path.isabs(cache) else Path("~/.cache").expanduser()
    return root / "packflow-csp" / "models"


def kept_file(model: ZooModel) -> Path:
    """Where the file of a model is kept that does not ship; it may not be there."""
    name = model.hub_file or model.url
    return models_folder() / f"{model.name}{Path(name).suffix or '.pt'}"


def find(model: ZooModel) -> Path | None:
    """File of a model on this machine, None where there is none."""
    if model.shipped:
        path = Path(str(resources.files("packflow_core") / "data" / model.shipped))
        return path if path.is_file() else None
    kept = kept_file(model)
    return kept if kept.is_file() else _in_hub_cache(model)


def require(model: ZooModel) -> Path:
    """File of a model on this machine.

    Raises:
        UserInputError: it is not there.
    """
    if found := find(model):
        return found
    if model.shipped:
        raise UserInputError(
            f"The model {model.name} is missing from this installation; install packflow-csp again."
        )
    raise UserInputError(
        f"The model {model.name} is not on this machine; get it with "
        f"'csp models download {model.name}' ({model.size_MB:.0f} MB, licence {model.licence}), or "
        f"put its file at {kept_file(model)}."
    )


def known_sha256(model: ZooModel, path: Path) -> tuple[str, str]:
    """Hash that the file of a model ought to have, and who says so; empty where nobody does."""
    if model.sha256:
        return model.sha256, "packflow-csp"
    if record := record_of(model, path):
        return record.sha256, f"recorded {record.how} on {record.date}"
    blob = path.resolve().name
    if path != kept_file(model) and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob, "the cache of the Hugging Face tools"
    return "", ""


def record_of(model: ZooModel, path: Path) -> Record | None:
    """What was recorded of the file of a model, None where it is not of ours to record."""
    return read_record(path) if path == kept_file(model) else None


def check_known(model: ZooModel, path: Path, sha256: str) -> None:
    """Refuse a file that is not the one that is known.

    Raises:
        UserInputError: the hashes differ.
    """
    known, who = known_sha256(model, path)
    if not known or known == sha256:
        return
    if model.shipped:
        remedy = "install packflow-csp again"
    else:
        remedy = (
            f"get it again with 'csp models download {model.name} --force', or accept it with "
            f"'csp models verify {model.name} --accept'"
        )
    raise UserInputError(
        f"{path} is not the file of {model.name} that is known here (sha256 {sha256[:12]}... "
        f"instead of {known[:12]}..., {who}); {remedy}."
    )


def hub_repository() -> str:
    """Repository on Hugging Face that holds the published checkpoints."""
    return os.environ.get("PACKFLOW_HF_REPO", "").strip() or HF_REPO


def hub_endpoint() -> str:
    """Address of Hugging Face or of the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or "https://huggingface.co"


def hub_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to download."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in _TRUE


def address(model: ZooModel) -> str:
    """Where the file of a model can be downloaded."""
    return model.url or f"{hub_endpoint()}/{hub_repository()}/resolve/main/{model.hub_file}"


def sha256_of(path: Path) -> str:
    """Hash of a file, hexadecimal.

    Raises:
        UserInputError: it cannot be read.
    """
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise UserInputError(f"{path} cannot be read ({error.strerror}).") from error


def _in_hub_cache(model: ZooModel) -> Path | None:
    """File that the Hugging Face tools, or the published code, downloaded before."""
    if not model.hub_file:
        return None
    home = os.environ.get("HF_HOME") or str(models_folder().parents[1] / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    folder = cache / f"models--{hub_repository().replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    path = folder / "snapshots" / revision / model.hub_file
    return path if revision and path.is_file() else None
