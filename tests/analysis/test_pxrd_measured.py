"""Files of measured patterns: what is read, and what one sentence says about the rest."""

import numpy as np
import pytest

from packflow_core.analysis.pxrd_measured import background, read_pattern
from packflow_core.analysis.pxrd_patterns import PxrdParams
from packflow_core.errors import UserInputError

PARAMS = PxrdParams()
X = np.arange(5.0, 60.0, 0.05)
Y = 1000 * np.exp(-((X - 20.0) ** 2) / 0.02) + 500 * np.exp(-((X - 30.0) ** 2) / 0.02)


def written(tmp_path, text):
    path = tmp_path / "measured.xy"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(x=X, y=Y, separator=" "):
    return "\n".join(f"{a:.3f}{separator}{b:.3f}" for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";", " , "])
@pytest.mark.parametrize("head", ["", "# comment\n", "Angle Counts\nstep 0.05\n", "\ufeff"])
def test_common_layouts_read_alike(tmp_path, separator, head):
    found = read_pattern(written(tmp_path, head + lines(separator=separator)), PARAMS)
    grid = PARAMS.grid()
    assert grid[found.intensity.argmax()] == pytest.approx(20.0, abs=0.03)
    assert found.intensity.max() == pytest.approx(100.0)
    near = np.abs(grid - 30) < 0.5
    assert found.intensity[near].max() == pytest.approx(50.0, abs=1.5)
    assert found.covered.sum() == (grid >= 5.0).sum()
    assert (found.intensity[~found.covered] == 0).all()


def test_descending_angles_and_a_third_column(tmp_path):
    text = "\n".join(f"{a} {b} 3.0" for a, b in zip(X[::-1], Y[::-1], strict=True))
    found = read_pattern(written(tmp_path, text), PARAMS)
    other = read_pattern(written(tmp_path, lines()), PARAMS)
    assert found.intensity == pytest.approx(other.intensity, abs=0.01)


def test_the_background_goes_and_the_peaks_stay(tmp_path):
    hill = 400 * np.exp(-X / 20) + 100
    text = lines(y=Y + hill)
    found = read_pattern(written(tmp_path, text), PARAMS)
    clean = read_pattern(written(tmp_path, lines()), PARAMS)
    assert np.abs(found.intensity - clean.intensity)[found.covered].max() < 3.0
    kept = read_pattern(written(tmp_path, text), PxrdParams(subtract_background=False))
    assert kept.intensity[kept.covered].min() > 5.0
    level = np.full(2000, 70.0)
    assert background(level, PARAMS) == pytest.approx(level)


MISTAKES = {
    "missing": (None, "cannot be read (No such file or directory)"),
    "empty": ("", "has no line of two numbers"),
    "prose": ("once upon a time\n" * 60, "has no line of two numbers"),
    "peaks": ("10 1\n12 5\n20 3\n", "has 3 points; a profile with at least 50"),
    "broken line": (lines() + "\n61.0 oops\n", "has no two numbers in line 1101 ('61.0 oops')"),
    "not ascending": (lines() + "\n10.0 3\n", "angles that do not ascend (after 59.95 degrees)"),
    "decimal comma": (lines().replace(".", ","), "angles that do not ascend"),
    "other range": (lines(x=X + 100, y=Y), "covers 105 to 159.95 degrees"),
    "wave numbers": (lines(x=X * 40, y=Y), "give 2 theta in degrees"),
    "nothing measured": (lines(y=0 * Y), "no intensity in its second column"),
    "infinite": (lines().replace("500.000", "inf", 1) + "\n61 nan", "not a finite number"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe" * 100, "is not a text file"),
}


@pytest.mark.parametrize(("text", "words"), MISTAKES.values(), ids=MISTAKES)
def test_one_sentence_for_each_mistake(tmp_path, text, words):
    path = tmp_path / "none.xy" if text is None else written(tmp_path, text)
    with pytest.raises(UserInputError) as raised:
        read_pattern(path, PARAMS)
    assert words in str(raised.value)
    assert str(raised.value).count(". ") <= 1
    assert str(raised.value).endswith(".")


def test_a_folder_is_no_pattern(tmp_path):
    with pytest.raises(UserInputError, match="cannot be read"):
        read_pattern(tmp_path, PARAMS)
