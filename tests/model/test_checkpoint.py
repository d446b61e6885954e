"""Reading and writing checkpoints, and what a stranger's file may not do."""

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from packflow_core.errors import UserInputError
from packflow_core.model import checkpoint, checkpoint_files
from packflow_core.model.checkpoint import convert, load_model, save_open, sha256_of
from packflow_core.model.checkpoint_files import HEADER_KEY, write_safetensors
from packflow_core.model.open_model import OpenConfig, OpenPackFlow

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CONFIG = {"d_model": 16, "nhead": 2, "num_layers": 1, "dim_feedforward": 16, "pair_dim": 4}
SUFFIXES = [".pt", ".safetensors"]


def small():
    torch.manual_seed(0)
    return OpenPackFlow(OpenConfig(**CONFIG))


@pytest.fixture(params=SUFFIXES)
def saved(tmp_path, request):
    model = small()
    path = tmp_path / f"m{request.param}"
    save_open(path, model, model.state_dict(), {"steps": 3})
    return path, model


def contents(path):
    return torch.load(path, weights_only=True)


def refusal(path):
    """The sentence about a file that is refused."""
    with pytest.raises(UserInputError) as caught:
        load_model(str(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_round_trip(saved):
    path, model = saved
    loaded = load_model(str(path))
    assert loaded.sha256 == sha256_of(path)
    assert (loaded.meta, loaded.preset) == ({"steps": 3}, "open")
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half().float())


def test_both_kinds_of_file_give_the_same_bits(tmp_path):
    model = small()
    for suffix in SUFFIXES:
        save_open(tmp_path / f"m{suffix}", model, model.state_dict(), {"a": [1, 2.5, None, "x"]})
    a, b = (load_model(str(tmp_path / f"m{suffix}")) for suffix in SUFFIXES)
    assert a.meta == b.meta
    assert a.model.config == b.model.config
    assert all(torch.equal(v, b.model.state_dict()[k]) for k, v in a.model.state_dict().items())


def test_the_name_of_a_file_does_not_matter(saved, tmp_path):
    path, _ = saved
    other = tmp_path / "weights.bin"
    path.rename(other)
    assert load_model(str(other)).meta == {"steps": 3}


def test_safetensors_are_the_same_bytes_every_time(tmp_path):
    model = small()
    state = model.state_dict()
    save_open(tmp_path / "a.safetensors", model, state, {"one": 1, "two": 2})
    mixed = dict(reversed(state.items()))
    save_open(tmp_path / "b.safetensors", model, mixed, {"two": 2, "one": 1})
    assert sha256_of(tmp_path / "a.safetensors") == sha256_of(tmp_path / "b.safetensors")


def test_the_header_can_be_read_without_this_package(tmp_path):
    model = small()
    save_open(tmp_path / "a.safetensors", model, model.state_dict(), {"licence": "MIT"})
    raw = (tmp_path / "a.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"][HEADER_KEY])
    assert header["meta"] == {"licence": "MIT"}
    assert header["config"]["d_model"] == 16
    assert header["format"] == "packflow-csp/1"


@pytest.mark.parametrize("name", ["small_best_model.pt", "small_pa_best_model.pt"])
def test_a_published_checkpoint_converts_to_the_same_weights(tmp_path, name):
    target = tmp_path / "m.safetensors"
    written = convert(str(GOLDEN / name), target)
    before = load_model(str(GOLDEN / name))
    assert written.preset == "official"
    assert written.meta == before.meta
    assert written.meta["training_config"]
    state = before.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in written.model.state_dict().items())


def test_the_state_of_the_optimiser_stays_behind(tmp_path):
    content = contents(GOLDEN / "small_best_model.pt")
    content["optimizer_state_dict"] = {"moments": torch.zeros(10**6)}
    torch.save(content, tmp_path / "m.pt")
    convert(str(tmp_path / "m.pt"), tmp_path / "m.safetensors")
    weights = sum(v.numel() for v in content["model_state_dict"].values())
    assert 4 * weights < (tmp_path / "m.safetensors").stat().st_size < 4 * weights + 10_000


def test_ours_convert_to_what_they_were(tmp_path):
    model = small()
    save_open(tmp_path / "m.pt", model, model.state_dict(), {"steps": 3})
    written = convert(str(tmp_path / "m.pt"), tmp_path / "m.safetensors")
    direct = tmp_path / "direct.safetensors"
    save_open(direct, model, model.state_dict(), {"steps": 3})
    assert written.sha256 == sha256_of(direct)
    with pytest.raises(UserInputError, match="exists already"):
        convert(str(tmp_path / "m.pt"), tmp_path / "m.safetensors")
    with pytest.raises(UserInputError, match="cannot be written"):
        convert(str(tmp_path / "m.pt"), tmp_path / "no" / "m.safetensors")


@pytest.mark.parametrize("damage", ["cut", "short", "noise", "empty", "page"])
def test_a_corrupt_file_gets_one_sentence(saved, tmp_path, damage):
    path, _ = saved
    bad = tmp_path / "bad.pt"
    whole = path.read_bytes()
    bad.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "short": whole[:-1],
            "noise": b"\x80\x02" + b"garbage" * 50,
            "empty": b"",
            "page": b"<!DOCTYPE html><html>log in</html>",
        }[damage]
    )
    message = refusal(bad)
    assert "bad.pt" in message
    assert "--generator" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["state_dict"].update({"trunk.norm.weight": torch.zeros(99)}), "(99,)"),
        (lambda c: c["state_dict"].popitem(), "1 weights are missing"),
        (lambda c: c["state_dict"].update(extra=torch.zeros(1)), "'extra'"),
        (lambda c: c["state_dict"].update(extra=3), "no plain tensor"),
        (lambda c: c["state_dict"].update(extra=torch.zeros(2, dtype=torch.long)), "holds int64"),
        (lambda c: c["state_dict"].clear(), "no weights"),
        (lambda c: c["config"].update(d_model=2**40), "d_model = "),
        (lambda c: c["config"].update(d_model=-1), "d_model = -1"),
        (lambda c: c["config"].update(nhead=0), "not a checkpoint"),
        (lambda c: c["config"].update(num_layers=60_000), "60000 layers"),
        (lambda c: c["config"].update(width=3), "width"),
        (lambda c: c.pop("config"), "config"),
        (lambda c: c.update(format="packflow-csp/9"), "not a checkpoint"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_contents_that_do_not_fit_get_one_sentence(tmp_path, change, words):
    model = small()
    save_open(tmp_path / "m.pt", model, model.state_dict(), {})
    content = contents(tmp_path / "m.pt")
    change(content)
    torch.save(content, tmp_path / "bad.pt")
    assert words in refusal(tmp_path / "bad.pt")


def test_safetensors_of_something_else_get_one_sentence(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert "names no model of PackFlow" in refusal(tmp_path / "a.safetensors")
    write_safetensors(tmp_path / "b.safetensors", "else/1", {}, {"w": torch.zeros(3)}, {})
    assert "not a checkpoint" in refusal(tmp_path / "b.safetensors")


def test_safetensors_of_a_nonsensical_header_get_one_sentence(tmp_path):
    for name, head in {"a": b"{" * 64, "b": b'{"__metadata__": 3}'.ljust(64)}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(head)) + head)
        assert name in refusal(path)
    (tmp_path / "c").write_bytes(struct.pack("<Q", 1 << 60) + b"{}" * 40)
    assert "cannot be read" in refusal(tmp_path / "c")


class Evil:
    """Opens a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path, zipped):
    content = {"format": "packflow-csp/1", "config": Evil(tmp_path / "pwned")}
    path = tmp_path / "evil.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert "not a PyTorch file of plain weights" in refusal(path)
    assert not (tmp_path / "pwned").exists()


def test_an_archive_that_grows_when_unpacked_is_refused(tmp_path):
    model = small()
    save_open(tmp_path / "m.pt", model, model.state_dict(), {})
    with (
        zipfile.ZipFile(tmp_path / "m.pt") as before,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as after,
    ):
        for entry in before.infolist():
            after.writestr(entry.filename, before.read(entry))
    assert "compressed" in refusal(tmp_path / "bomb.pt")


def test_a_huge_index_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "_MAX_PICKLE_BYTES", 100)
    torch.save({"format": "packflow-csp/1", "meta": "x" * 200}, tmp_path / "m.pt")
    assert "index is too large" in refusal(tmp_path / "m.pt")


def test_a_tensor_larger_than_its_numbers_is_refused(tmp_path):
    model = small()
    save_open(tmp_path / "m.pt", model, model.state_dict(), {})
    content = contents(tmp_path / "m.pt")
    # 16 TB once it is copied, two bytes in the file
    content["state_dict"]["trunk.norm.weight"] = torch.zeros(1).half().expand(2**43)
    torch.save(content, tmp_path / "bad.pt")
    assert "claims more numbers than there are" in refusal(tmp_path / "bad.pt")


def test_a_description_without_end_is_refused(tmp_path):
    model = small()
    endless = ["x"] * 10
    for _ in range(15):  # 10^16 entries to walk through
        endless = [endless] * 10
    save_open(tmp_path / "m.pt", model, model.state_dict(), {"notes": endless})
    assert "description is too large" in refusal(tmp_path / "m.pt")
    deep = []
    for _ in range(200):
        deep = [deep]
    save_open(tmp_path / "n.pt", model, model.state_dict(), {"notes": deep})
    assert "description is too large" in refusal(tmp_path / "n.pt")


def test_numbers_of_numpy_in_a_published_checkpoint_are_harmless(tmp_path):
    content = contents(GOLDEN / "small_best_model.pt")
    content["loss"] = np.float64(0.25)
    content["training_config"]["lr"] = np.float32(0.5)
    content["epoch"] = np.int64(7)
    torch.save(content, tmp_path / "m.pt")
    meta = load_model(str(tmp_path / "m.pt")).meta
    assert (meta["loss"], meta["training_config"]["lr"], meta["epoch"]) == (0.25, 0.5, 7)
    assert json.loads(json.dumps(meta)) == meta


def test_prefixes_of_training_tools_are_taken_off(tmp_path):
    content = contents(GOLDEN / "small_best_model.pt")
    content["model_state_dict"] = {
        f"module._orig_mod.{k}": v for k, v in content["model_state_dict"].items()
    }
    torch.save(content, tmp_path / "m.pt")
    a, b = load_model(str(tmp_path / "m.pt")), load_model(str(GOLDEN / "small_best_model.pt"))
    assert all(torch.equal(v, a.model.state_dict()[k]) for k, v in b.model.state_dict().items())


def test_a_file_that_changes_while_it_is_read_is_not_taken_for_its_hash(saved, monkeypatch):
    path, _ = saved
    read = checkpoint.read_checkpoint

    def slowly(found):
        content = read(found)
        os.utime(found, ns=(1, 1))
        return content

    monkeypatch.setattr(checkpoint, "read_checkpoint", slowly)
    assert "changed while it was read" in refusal(path)


def test_unknown_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserInputError, match=r"neither a model .*packflow-2M.* nor a checkpoint"):
        load_model("packflow-sixty")
    with pytest.raises(UserInputError, match="nor a checkpoint file"):
        load_model(str(tmp_path))
