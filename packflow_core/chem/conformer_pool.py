"""The pool of conformers of a molecule under given settings, made once per process."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.conformer_files import read_conformers
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_search import search_conformers
from packflow_core.chem.conformers import ConformerError
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError

#: Version of the search, part of the key: raised where the same settings give other conformers.
CONFORMER_VERSION = "1"


def make_ensemble(
    molecule: Molecule, params: ConformerParams, threads: int = 1
) -> ConformerEnsemble:
    """The conformers of a molecule, made afresh.

    Args:
        molecule: the molecule.
        params: a search, or a file.
        threads: for the search; 0: one per processor. No number depends on it.

    Raises:
        ConformerError: the search found nothing.
        UserInputError: the file cannot be read, or holds something else.
    """
    if params.file is not None:
        return read_conformers(Path(params.file).expanduser(), molecule)
    return search_conformers(molecule, params, threads)


def conformer_ensemble(molecule: Molecule, params: ConformerParams) -> ConformerEnsemble:
    """The conformers of a molecule, made once per process for the same molecule and settings.

    Raises:
        ConformerError, UserInputError: as `make_ensemble`.
    """
    found = _made(molecule.smiles, params, ensemble_key(molecule, params))
    if isinstance(found, ConformerError):
        raise found
    return found


@lru_cache(maxsize=16)
def _made(smiles: str, params: ConformerParams, _key: str) -> ConformerEnsemble | ConformerError:
    """The ensemble, or the error: a hopeless search takes long and must not be repeated."""
    try:
        return make_ensemble(Molecule.from_smiles(smiles), params)
    except ConformerError as error:
        return error


def ensemble_key(molecule: Molecule, params: ConformerParams) -> str:
    """Hash of all that a pool depends on: molecule, settings, the content of a file, version.

    Raises:
        UserInputError: the file cannot be read.
    """
    settings = params.model_dump(mode="json", exclude={"file"})
    content = None
    if params.file is not None:
        path = Path(params.file).expanduser()
        try:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserInputError(
                f"The conformer file '{path}' cannot be read ({error.strerror}); check the path."
            ) from error
        settings = {}  # nothing is searched
    facts = [CONFORMER_VERSION, molecule.smiles, settings, content]
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
