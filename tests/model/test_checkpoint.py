"""Reading and writing checkpoints."""

import pytest
import torch

from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import load_model, save_open, sha256_of
from packflow_core.model.open_model import OpenConfig, OpenPackFlow


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = OpenPackFlow(
        OpenConfig(d_model=16, nhead=2, num_layers=1, dim_feedforward=16, pair_dim=4)
    )
    path = tmp_path / "m.pt"
    save_open(path, model, model.state_dict(), {"steps": 3})
    return path, model


def test_round_trip(saved):
    path, model = saved
    loaded = load_model(str(path))
    assert loaded.sha256 == sha256_of(path)
    assert loaded.meta == {"steps": 3}
    for name, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "other", "shape"])
def test_a_corrupt_file_gets_one_sentence(saved, tmp_path, damage):
    path, _ = saved
    bad = tmp_path / "bad.pt"
    if damage == "cut":
        bad.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "noise":
        bad.write_bytes(b"\x80\x02" + b"garbage" * 50)
    elif damage == "empty":
        bad.write_bytes(b"")
    elif damage == "other":
        torch.save({"weights": torch.zeros(3)}, bad)
    else:
        content = torch.load(path, weights_only=True)
        content["state_dict"]["trunk.norm.weight"] = torch.zeros(99)
        torch.save(content, bad)
    with pytest.raises(UserInputError) as caught:
        load_model(str(bad))
    message = str(caught.value)
    assert "bad.pt" in message
    assert "\n" not in message
    assert "--generator" in message


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"format": "packflow-csp/1", "config": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserInputError):
        load_model(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "pwned").exists()


def test_unknown_names(tmp_path):
    with pytest.raises(UserInputError, match="neither a shipped model"):
        load_model("packflow-sixty")
