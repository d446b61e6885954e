"""Progress of a leg in that of its race."""

from packflow_core.race.progress import LegProgress


class Sink:
    """Remembers its calls."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


def test_a_leg_tells_its_name_and_never_closes_the_race():
    sink = Sink()
    leg = LegProgress(sink, "random")
    leg.start("relax", 4, {"ok": 1})
    leg.advance("relax", "ok")
    leg.note("relax", "half way")
    leg.finish("relax")
    leg.warn("too many failed")
    leg.close()
    assert sink.calls == [
        ("start", "random relax", 4, {"ok": 1}), ("advance", "random relax", "ok", 1),
        ("note", "random relax", "half way"), ("finish", "random relax"),
        ("warn", "random: too many failed"),
    ]  # fmt: skip
