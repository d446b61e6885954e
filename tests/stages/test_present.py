"""What the report learns of a run folder beyond its ranking."""

import pytest

from packflow_core.analysis.pxrd_table import write_parquet
from packflow_core.stages.present import PXRD, _command, read_patterns

RANKED = [{"candidate_id": "a", "rank": 1, "density_g_cm3": 1.5}]


def test_patterns_of_this_ranking_are_read_and_others_are_not(tmp_path):
    assert read_patterns(tmp_path, RANKED) == []
    (tmp_path / PXRD).mkdir()
    path = tmp_path / PXRD / "pxrd.parquet"
    write_parquet([{**RANKED[0], "intensity": [0.0, 1.0], "detail": ""}], path, {})
    (row,) = read_patterns(tmp_path, RANKED)
    assert row["intensity"] == [0.0, 1.0]
    assert read_patterns(tmp_path, [{**RANKED[0], "rank": 2}]) == []
    assert read_patterns(tmp_path, [{**RANKED[0], "density_g_cm3": 1.6}]) == []
    assert read_patterns(tmp_path, []) == []
    path.write_bytes(b"PAR1 and then nothing")
    assert read_patterns(tmp_path, RANKED) == []


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("/opt/venv/bin/csp run 'C=O' --n 4", "csp run 'C=O' --n 4"),
        ("/a/flows/cli.py run x.yaml", "csp run x.yaml"),
        ("csp run x.yaml", "csp run x.yaml"),
        ("/opt/venv/bin/python -m prefect.engine", ""),
        ("/opt/venv/lib/prefect/flow_engine.py", ""),
        ("", ""),
    ],
)
def test_the_command_is_one_that_repeats_the_run(typed, shown):
    assert _command(typed) == shown
