"""The token of the server reaches a run that needs it, and no other."""

import os

import pytest

from flows import secrets as module


class Block:
    """Stands for Prefect's Secret."""

    asked: list = []  # noqa: RUF012

    @classmethod
    def load(cls, name):
        cls.asked.append(name)
        if name != "hf-token":
            raise ValueError("no such block")
        return cls()

    def get(self):
        return "hf_fromTheServer"


@pytest.fixture(autouse=True)
def block(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(module, "Secret", Block)
    monkeypatch.setattr(Block, "asked", [])


def test_a_run_with_uma_gets_the_token():
    module.lend_token(["gfnff", "uma-s-1p2"])
    assert os.environ["HF_TOKEN"] == "hf_fromTheServer"


def test_others_do_not_ask():
    module.lend_token(["gfnff", "gfn1-xtb"])
    assert os.environ["HF_TOKEN"] == ""
    assert Block.asked == []


def test_the_environment_wins(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    module.lend_token(["uma-s-1p2"])
    assert os.environ["HF_TOKEN"] == "hf_mine"
    assert Block.asked == []


def test_a_server_without_the_block_is_no_fault(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", "another")
    module.lend_token(["uma-s-1p2"])
    assert os.environ["HF_TOKEN"] == ""
    assert Block.asked == ["another"]
