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
