"""New molecules from the pieces of known ones (BRICS), for synthetic training crystals.

Molecules are cut at the bonds that the sixteen rules of BRICS call retrosynthetically
interesting, and the pieces are joined anew by the same rules (Degen et al., ChemMedChem 2008, 3,
1503; RDKit's implementation). So a new molecule has ring systems, chains and functional groups of
the training molecules, in other company.

Molecule number k is a function of the pieces, the seed and k alone, apart from repetitions, which
are passed over.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import BRICS

from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError

log = logging.getLogger(__name__)

#: Second part of the seed, so that no other use of the same numbers draws the same.
_STREAM = 0xB51C

#: Pieces drawn for one molecule, products looked at before one of them is taken, and depth of the
#: joining. More of the last costs seconds for some hands and gives larger molecules only.
_HAND, _PRODUCTS, _DEPTH = 5, 24, 2

#: Draws for each molecule wanted before the pieces count as exhausted.
_DRAWS = 60

#: Largest size in heavy atoms of a piece; a larger one leaves no room for another.
_MAX_PIECE = 20


@dataclass
class NewMolecules:
    """Outcome of `recombine`.

    Attributes:
        smiles: canonical SMILES, all different.
        refused: products that were not taken, by reason: `none` (the pieces do not close),
            `size`, `invalid` (not a molecule that the workflow takes), `repeated`, `known`
            (a training molecule), `forbidden`.
    """

    smiles: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def skeleton_key(molecule: Molecule) -> str:
    """What names the heavy-atom skeleton: elements and connections only.

    Bond orders, charges, hydrogens and stereochemistry do not count, so that tautomers, protomers
    and stereoisomers of a molecule have its key. Two molecules with equal SMILES have equal keys.
    """
    bare = Chem.RWMol()
    for number in molecule.numbers:
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        bare.AddAtom(atom)
    for i, j in molecule.bonds:
        bare.AddBond(int(i), int(j), Chem.BondType.SINGLE)
    return str(Chem.MolToSmiles(bare))


def skeleton_keys(smiles: Collection[str]) -> frozenset[str]:
    """`skeleton_key` of many molecules.

    Raises:
        UserInputError: a SMILES is not one that the workflow takes.
    """
    return frozenset(skeleton_key(Molecule.from_smiles(text)) for text in smiles)


def brics_pieces(smiles: Sequence[str]) -> Counter[str]:
    """How many of the molecules have each BRICS piece, pieces in alphabetical order.

    Pieces carry dummy atoms ([3*]O[3*]) where they were cut. Molecules without a bond to cut give
    none.
    """
    counts: Counter[str] = Counter()
    for text in smiles:
        mol = Molecule.from_smiles(text).rdmol
        counts.update(piece for piece in BRICS.BRICSDecompose(mol) if "*" in piece)
    return Counter(dict(sorted(counts.items())))


def recombine(
    pieces: Counter[str],
    count: int,
    seed: int,
    *,
    known: Collection[str] = (),
    forbidden: Collection[str] = (),
    min_heavy: int = 4,
    max_heavy: int = 24,
    on_molecule: Callable[[int], None] = lambda done: None,
) -> NewMolecules:
    """New molecules of some pieces.

    Pieces are drawn in proportion to the number of molecules that have them, and joined with
    `BRICSBuild`.

    Args:
        pieces: of `brics_pieces`.
        count: molecules wanted.
        seed: of the draws.
        known: canonical SMILES that are not new.
        forbidden: skeleton keys (`skeleton_key`) that no product may have.
        min_heavy, max_heavy: range of heavy atoms.
        on_molecule: called with the number of molecules so far.

    Returns:
        At most `count` molecules; fewer where the pieces are exhausted.

    Raises:
        UserInputError: no pieces.
    """
    names = [name for name in pieces if _heavy(name) <= min(_MAX_PIECE, max_heavy - 1)]
    if not names:
        raise UserInputError(
            "The training molecules have no bond that BRICS cuts, so no new ones can be made; "
            "take training molecules only (training_share=1)."
        )
    mols = [Chem.MolFromSmiles(name) for name in names]
    weights = np.array([pieces[name] for name in names], dtype=np.float64)
    weights /= weights.sum()
    found = NewMolecules()
    seen: set[str] = set()
    for draw in range(count * _DRAWS):
        if len(found.smiles) >= count:
            break
        rng = np.random.default_rng([_STREAM, seed, draw])
        hand = rng.choice(len(names), size=_HAND, p=weights)
        product = _product([mols[k] for k in hand], min_heavy, max_heavy, rng)
        if isinstance(product, str):
            found.refused[product] += 1
        elif product.smiles in seen:
            found.refused["repeated"] += 1
        elif product.smiles in known:
            found.refused["known"] += 1
        elif skeleton_key(product) in forbidden:
            found.refused["forbidden"] += 1
        else:
            seen.add(product.smiles)
            found.smiles.append(product.smiles)
            on_molecule(len(found.smiles))
    if len(found.smiles) < count:
        log.warning("The pieces gave %d new molecules of %d", len(found.smiles), count)
    return found


def _product(
    hand: list[Chem.Mol], min_heavy: int, max_heavy: int, rng: np.random.Generator
) -> Molecule | str:
    """One molecule of the right size made of some pieces, or why there is none."""
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    try:
        build = BRICS.BRICSBuild(hand, seeds=hand[:1], scrambleReagents=False, maxDepth=_DEPTH)
        products = list(islice(build, _PRODUCTS))
    finally:
        RDLogger.EnableLog("rdApp.error")  # type: ignore[attr-defined]
    if not products:
        return "none"
    sized = [mol for mol in products if min_heavy <= mol.GetNumHeavyAtoms() <= max_heavy]
    if not sized:
        return "size"
    chosen = sized[int(rng.integers(len(sized)))]
    try:
        return Molecule.from_smiles(Chem.MolToSmiles(chosen))
    except (UserInputError, ValueError, RuntimeError):
        return "invalid"


def _heavy(piece: str) -> int:
    """Heavy atoms of a piece, dummies not counted."""
    return sum(atom.GetAtomicNum() > 1 for atom in Chem.MolFromSmiles(piece).GetAtoms())
