"""Windows of density and volume: what is let through, what is aimed at, what cannot be meant."""

import numpy as np
import pytest

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.errors import UserInputError
from packflow_core.stages.density_window import (
    apply_windows,
    check_reachable,
    check_window,
    expected_molecular_volume,
    parse_window,
    volume_scale,
)
from packflow_core.store.rows import crystal_columns

BENZENE = Molecule.from_smiles("c1ccccc1")


def row(volume_per_molecule, z=2):
    """Row of a benzene crystal of that volume in Å3 a molecule."""
    side = (z * volume_per_molecule) ** (1 / 3)
    numbers = np.tile(BENZENE.numbers, z)
    crystal = Crystal(numbers, np.zeros((len(numbers), 3)), side * np.eye(3), z)
    return {"status": "ok", "reason": "", "detail": "", **crystal_columns(crystal, z * 6)}


def test_density_counts_hydrogens_and_volume_is_a_molecule():
    # 78.11 g/mol in 110 Å3: 78.11 * 1.66054 / 110
    assert row(110)["density_g_cm3"] == pytest.approx(1.1791, abs=2e-4)
    kept = apply_windows(row(110), (1.17, 1.19), (109, 111))
    assert kept == row(110)


@pytest.mark.parametrize(
    ("density", "volume", "detail"),
    [
        ((1.2, 1.6), None, "density 1.179 g/cm3 is below the window 1.2 to 1.6"),
        ((1.0, 1.1), None, "density 1.179 g/cm3 is above the window 1 to 1.1"),
        ((1.2, None), None, "density 1.179 g/cm3 is below the window from 1.2"),
        ((None, 1.1), None, "density 1.179 g/cm3 is above the window up to 1.1"),
        (None, (100, 105), "volume 110 Å3 a molecule is above the window 100 to 105"),
        ((1.0, 1.3), (120, None), "volume 110 Å3 a molecule is below the window from 120"),
    ],
)
def test_what_is_outside_is_rejected_with_the_numbers(density, volume, detail):
    for z in (1, 4):
        before = row(110, z)
        found = apply_windows(dict(before), density, volume)
        assert (found["status"], found["reason"], found["detail"]) == (
            "rejected",
            "density",
            detail,
        )
        told = {"status", "reason", "detail"}
        assert {k: v for k, v in found.items() if k not in told} == {
            k: v for k, v in before.items() if k not in told
        }


def test_the_ends_belong_to_the_window():
    exact = row(110)["density_g_cm3"]
    assert apply_windows(row(110), (exact, None), None)["status"] == "ok"
    assert apply_windows(row(110), (None, exact), None)["status"] == "ok"


def test_rows_that_failed_otherwise_are_left_alone():
    failed = {"status": "failed", "reason": "nan", "detail": "x"}
    assert apply_windows(dict(failed), (1.2, None), (1, 2)) == failed
    assert apply_windows(row(500), None, None)["status"] == "ok"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("1.2:1.6", [1.2, 1.6]), ("1.2:", [1.2, None]), (" :1.6 ", [None, 1.6]), (":", [None, None])],
)
def test_what_is_typed(text, meaning):
    assert parse_window(text) == meaning
    assert parse_window(meaning) == meaning


@pytest.mark.parametrize("text", ["1.2", "1.2-1.6", "a:b", "1:2:3", "", 1.2, [1, 2, 3]])
def test_what_cannot_be_understood(text):
    with pytest.raises(ValueError, match="LOW:HIGH"):
        parse_window(text)


@pytest.mark.parametrize(
    "window", [(1.6, 1.2), (1.2, 1.2), (0.0, 1.0), (-1.0, None), (None, float("inf")),
               (float("nan"), 2.0)],
)  # fmt: skip
def test_windows_that_hold_nothing(window):
    with pytest.raises(ValueError, match="window"):
        check_window(window)


def test_windows_without_an_end_are_none():
    assert check_window((None, None)) is None
    assert check_window(None) is None
    assert check_window((1.0, None)) == (1.0, None)


def test_wrong_units_are_noticed():
    check_reachable(BENZENE, (0.9, 1.6), (80, 150))
    with pytest.raises(UserInputError, match=r"1000 to 1300 g/cm3 .* about 1\.1.* of C6H6"):
        check_reachable(BENZENE, (1000, 1300), None)
    with pytest.raises(UserInputError, match=r"up to 0\.15 Å3 a molecule .* check the unit"):
        check_reachable(BENZENE, None, (None, 0.15))
    with pytest.raises(UserInputError, match="give one of the two"):
        check_reachable(BENZENE, (1.2, 1.3), (130, 140))


def test_a_window_around_the_expected_volume_changes_nothing():
    expected = expected_molecular_volume(BENZENE)
    assert expected == pytest.approx(6 * 13.87 + 6 * 5.08)
    assert volume_scale(BENZENE, None, None) == 1.0
    assert volume_scale(BENZENE, None, (0.9 * expected, 1.4 * expected)) == 1.0
    assert volume_scale(BENZENE, (None, 1.4), (None, 2 * expected)) == 1.0


def test_another_window_is_aimed_at():
    expected = expected_molecular_volume(BENZENE)
    assert volume_scale(BENZENE, None, (1.1 * expected, 1.3 * expected)) == pytest.approx(1.2)
    assert volume_scale(BENZENE, None, (1.1 * expected, None)) == pytest.approx(1.1 * 1.03)
    assert volume_scale(BENZENE, None, (None, 0.9 * expected)) == pytest.approx(0.9 * 0.97)
    assert volume_scale(BENZENE, None, (1.8 * expected, None)) == 1.4
    # density and volume say the same, the other way round
    usual = BENZENE.mass * 1.66053907 / expected
    assert volume_scale(BENZENE, (1.05 * usual, 1.15 * usual), None) == pytest.approx(
        0.5 * (1 / 1.05 + 1 / 1.15), rel=1e-6
    )
    both = volume_scale(BENZENE, (None, 0.95 * usual), (None, 1.2 * expected))
    assert both == pytest.approx(0.5 * (1 / 0.95 + 1.2), rel=1e-6)
