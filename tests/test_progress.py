import io
import logging

from rich.console import Console

from packflow_core import progress

SENTENCE = "11 of 16 candidates failed in stage relax [exploded: 11], more than the 50% allowed."


def test_a_warning_is_printed_above_the_bars_as_it_stands():
    text = io.StringIO()
    with progress.use(progress.RichProgress(Console(file=text, width=200))) as sink:
        sink.start("relax", 2, {})
        sink.advance("relax", "failed")
        progress.current().warn(SENTENCE)
        sink.finish("relax")
    assert SENTENCE in text.getvalue()


def test_a_warning_is_a_line_of_the_log(caplog):
    with caplog.at_level(logging.WARNING), progress.use(progress.LogProgress()):
        progress.current().warn(SENTENCE)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", SENTENCE)]


def test_a_note_stands_until_the_next_candidate_is_recorded():
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=True)
    with progress.use(progress.RichProgress(console)) as sink:
        sink.start("generate", 2, {})
        sink.note("generate", "space group 14, 3 structures")
        sink.note("relax", "a stage that has not begun")
    assert "space group 14, 3 structures" in text.getvalue()
    assert "not begun" not in text.getvalue()


def test_notes_in_a_log_come_now_and_then(caplog):
    with caplog.at_level(logging.INFO), progress.use(progress.LogProgress(every_s=0.0)) as sink:
        sink.start("generate", 2, {})
        sink.note("generate", "press, 2 of 5 structures")
    assert "generate: press, 2 of 5 structures" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO), progress.use(progress.LogProgress(every_s=1e6)) as sink:
        sink.start("generate", 2, {})
        sink.note("generate", "press, 2 of 5 structures")
    assert "press" not in caplog.text


def test_bars_keep_their_numbers_on_a_narrow_terminal():
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, color_system=None)
    with progress.use(progress.RichProgress(console)) as sink:
        sink.start("hydrogenate", 10_000, {})
        for status, count in {"ok": 9000, "unconverged": 100, "rejected": 800}.items():
            sink.advance("hydrogenate", status, count)
    last = text.getvalue().split("\r")[-1]
    assert " 9900/10000 " in last
    assert "9000 ok, 100 unconv" in last
    assert "…" in last


def test_a_stage_in_words():
    counts = progress.StageCounts.starting(400, {"ok": 100})
    assert counts.describe(counts.began) == "100/400 (100 ok)"
    counts.counts["failed"] += 100
    assert counts.describe(counts.began + 50.0) == (
        "200/400 (2.0/s, 1 min 40 s left; 100 ok, 100 failed)"
    )
    counts.counts["ok"] += 200
    assert counts.describe(counts.began + 100.0) == "400/400 (3.0/s; 300 ok, 100 failed)"
    assert progress.StageCounts.starting(0, {}).describe(0.0) == "0/0"
