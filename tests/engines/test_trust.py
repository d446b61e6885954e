import re
import subprocess
import sys
from pathlib import Path

import pytest

from packflow_core.engines import trust
from packflow_core.errors import UserInputError

ROOT = Path(__file__).parents[2]
NAME = "ase:my.module:make?depth=3"


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch):
    monkeypatch.delenv("PACKFLOW_ALLOW_ENGINES", raising=False)
    monkeypatch.setattr(trust, "_allowed_here", set())


@pytest.mark.parametrize("name", ["gfnff", "gfn1-xtb", "uma-s-1p1", "springs", "no such engine"])
def test_engines_of_this_package_need_no_trust(name):
    assert not trust.needs_trust(name)
    trust.check_trusted(name)


def test_code_of_others_is_refused_with_what_to_set():
    assert trust.needs_trust(NAME)
    with pytest.raises(
        UserInputError, match=r"set PACKFLOW_ALLOW_ENGINES=my\.module:make "
    ) as caught:
        trust.check_trusted(NAME)
    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_code_too(tmp_path):
    name = f"uma:{tmp_path}/weights.pt"
    assert trust.needs_trust(name)
    with pytest.raises(UserInputError, match=re.escape(f"PACKFLOW_ALLOW_ENGINES={name} ")):
        trust.check_trusted(name)


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [
        ("my.module:make", True),
        ("my.module:*", True),
        ("*", True),
        ("other:make, my.module:make", True),
        ("my.*", True),
        ("", False),
        (" ,", False),
        ("my.module", False),
        ("my.module:mak", False),
        ("my.module:make2", False),
        ("module:make", False),
        ("other:*", False),
        ("My.module:make", False),
    ],
)
def test_patterns(patterns, allowed, monkeypatch):
    monkeypatch.setenv("PACKFLOW_ALLOW_ENGINES", patterns)
    if allowed:
        trust.check_trusted(NAME)
    else:
        with pytest.raises(UserInputError):
            trust.check_trusted(NAME)


def test_a_process_may_allow_what_its_user_typed():
    trust.allow(NAME)
    trust.check_trusted(NAME)
    trust.check_trusted("ase:my.module:make")  # the function is trusted, not a call of it
    with pytest.raises(UserInputError):
        trust.check_trusted("ase:my.module:other")
    trust.allow("gfnff")
    assert trust._allowed_here == {"my.module:make"}


def test_a_folder_of_checkpoints_has_no_way_out(tmp_path, monkeypatch):
    models, outside = tmp_path / "models", tmp_path / "outside.pt"
    models.mkdir()
    outside.write_text("")
    (models / "link.pt").symlink_to(outside)
    monkeypatch.setenv("PACKFLOW_ALLOW_ENGINES", f"uma:{models}/*")
    trust.check_trusted(f"uma:{models}/small.pt")
    monkeypatch.chdir(models)
    trust.check_trusted("uma:small.pt")
    for name in (f"uma:{models}/../outside.pt", f"uma:{models}/link.pt", f"uma:{outside}"):
        with pytest.raises(UserInputError):
            trust.check_trusted(name)


def test_names_of_a_wrong_form_are_refused():
    for name in ("ase:os", "ase:os:a.b", "uma:"):
        with pytest.raises(UserInputError):
            trust.check_trusted(name)
        with pytest.raises(UserInputError):
            trust.allow(name)


def test_asking_runs_nothing_and_loads_nothing_heavy(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')\n")
    code = (
        "import sys; from packflow_core.engines import trust\n"
        "from packflow_core.errors import UserInputError\n"
        "try: trust.check_trusted('ase:evil:make')\n"
        "except UserInputError: print(sorted({'evil', 'ase', 'torch', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert out.stdout.strip() == "[]"
