"""Data of several folders: what is drawn, how often, and which folder validates."""

import numpy as np
import pytest

from packflow_core.errors import UserInputError
from packflow_core.training.batches import BatchMaker, BatchPlan
from packflow_core.training.data import prepare
from packflow_core.training.mixture import Source, digest, mix, open_sources, parse_source


@pytest.fixture(scope="module")
def data(tables):
    return prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train")


@pytest.fixture
def folders(data, tmp_path):
    """Two folders of the same crystals; only the second has some to validate on."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        data.save(tmp_path / name / "train.npz")
    data.save(tmp_path / "two" / "val.npz")
    return tmp_path / "one", tmp_path / "two"


def test_sources_are_read_as_they_are_written(tmp_path):
    assert parse_source("folder") == Source(parse_source("folder").folder, 1.0)
    source = parse_source("a/b=0.25")
    assert (str(source.folder), source.weight) == ("a/b", 0.25)
    (tmp_path / "t=300").mkdir()
    assert parse_source(f"{tmp_path}/t=300") == Source(tmp_path / "t=300", 1.0)


@pytest.mark.parametrize("text", ["a=x", "a=0", "a=-1", "a=nan", "a="])
def test_wrong_weights_get_a_sentence(text):
    with pytest.raises(UserInputError, match="weight above zero"):
        parse_source(text)


def test_a_mixture_keeps_shares_and_crystals(data, folders, tmp_path):
    one, two = folders
    opened = open_sources([Source(one, 3.0), Source(two, 1.0)], tmp_path / "cache")
    mixed, n = opened.train, len(data)
    weights = mixed.weights()
    assert weights[:n].sum() == pytest.approx(0.75)
    np.testing.assert_allclose(weights[n:] / 0.25, data.weights())
    for k in (0, n - 1):  # the same crystals stand at both places
        np.testing.assert_array_equal(mixed.crystal(k), data.crystal(k))
        np.testing.assert_array_equal(mixed.crystal(n + k), data.crystal(k))
        graph = mixed.graphs[mixed.molecule[n + k]]
        assert graph.numbers.tolist() == data.graphs[data.molecule[k]].numbers.tolist()
    assert [f["share"] for f in opened.facts] == [0.75, 0.25]
    assert len(opened.val) == n


def test_crystals_of_both_folders_are_drawn_by_their_shares(data):
    """Crystals of the second set are marked by a cell of their own."""
    import dataclasses

    marked = dataclasses.replace(data, cells=data.cells * np.float32(1.5))
    maker = BatchMaker(mix([data, marked], [0.8, 0.2]), BatchPlan(atoms=256), 0)
    plain = BatchMaker(data, BatchPlan(atoms=256), 0)
    drawn = np.concatenate([maker(k).lattice0[:, :3].sum(1).numpy() for k in range(60)])
    usual = np.concatenate([plain(k).lattice0[:, :3].sum(1).numpy() for k in range(60)])
    # Lengths are 1.5 times as long: the sum of three logarithms rises by 3 log(1.5) / 0.35.
    assert (drawn.mean() - usual.mean()) / (3 * np.log(1.5) / 0.35) == pytest.approx(0.2, abs=0.05)


def test_one_folder_is_what_it_was(data, folders, tmp_path):
    opened = open_sources([Source(folders[1], 0.3)], tmp_path / "cache")
    np.testing.assert_array_equal(opened.train.weights(), data.weights())
    assert opened.facts[0]["digest"] == digest(data)


def test_folders_that_do_not_fit_get_a_sentence(folders, tmp_path):
    one, two = folders
    with pytest.raises(UserInputError, match="twice"):
        open_sources([Source(one), Source(one / ".." / "one")], tmp_path / "cache")
    (two / "val.npz").unlink()
    with pytest.raises(UserInputError, match="for validation"):
        open_sources([Source(one), Source(two)], tmp_path / "cache")
