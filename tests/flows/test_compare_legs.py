"""Which runs a race is made of."""

import pytest

from flows.compare_legs import check_legs, default_folder, race_legs
from flows.how import How
from packflow_core.errors import UserInputError
from packflow_core.spec import make_spec


def spec(**values):
    return make_spec({"smiles": "C=O", "name": "x", "z": [2], "engine": "springs", **values})


def test_each_generator_has_a_folder_and_all_else_is_equal(tmp_path):
    wanted = spec(seed=5, relax={"fmax": 0.1}, refine=["springs:8"], n=9)
    legs = race_legs(wanted, ["random", " random+press "], tmp_path)
    assert [leg.folder for leg in legs] == [tmp_path / "random", tmp_path / "random+press"]
    for leg, name in zip(legs, ("random", "random+press"), strict=True):
        assert leg.spec == wanted.model_copy(update={"generator": name})
        assert leg.of_size(30).n == 30
        assert leg.size() == 0
    assert default_folder(wanted).as_posix() == "runs/single/x/race"


def test_ranks_of_mpi_go_to_random_packings_alone(tmp_path):
    how = How(2, "cpu", 30.0, True, ranks=4)
    packflow, random = race_legs(spec(), ["packflow-open", "random"], tmp_path)
    assert packflow.means(how) == How(2, "cpu", 30.0, True)
    assert random.means(how) == how
    models = race_legs(spec(), ["packflow-open", "genarris-plain"], tmp_path)
    with pytest.raises(UserInputError, match="--ranks is for the generators random"):
        check_legs(models, None, how)
