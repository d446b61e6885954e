"""A worker pool without processes, which a test can make fail or stop."""

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import BaseEngine, compute_each
from packflow_core.workers import Outcome


class InlinePool:
    """Calls functions here.

    Args:
        faults: (function's name, key) to an error of the pool.
        instead: function's name to what is called instead.
        die_after: calls until the process is "killed".

    Attributes:
        calls: (function's name, key) of every call.
    """

    workers = 2

    def __init__(self, faults=None, instead=None, die_after=None):
        self.faults = faults or {}
        self.instead = instead or {}
        self.die_after = die_after
        self.calls = []

    def count(self, name):
        return sum(called == name for called, _ in self.calls)

    def map(self, function, items, timeout_s):
        for key, arguments in items:
            if not self._may(function, key):
                yield Outcome(key, None, self.faults[function.__name__, key], "in words", 0.1)
                continue
            call = self.instead.get(function.__name__, function)
            try:
                value = call(*arguments)
            except Exception as error:
                yield Outcome(key, None, "exception", str(error), 0.1)
            else:
                yield Outcome(key, value, None, "", 0.1)

    def map_groups(self, function, groups, timeout_s, renew=None):
        for members, arguments in groups:
            for key, value in function(members, *arguments):
                if self._may(function, key):
                    yield Outcome(key, value, None, "", 0.1)
                else:
                    error = self.faults[function.__name__, key]
                    yield Outcome(key, None, error, "in words", 0.1)

    def _may(self, function, key):
        if self.die_after is not None and len(self.calls) == self.die_after:
            raise KeyboardInterrupt
        self.calls.append((function.__name__, key))
        return (function.__name__, key) not in self.faults


class FormulaEngine(BaseEngine):
    """Energies by a formula of a crystal, without forces; each crystal knows itself alone."""

    name = "formula"

    def __init__(self, formula):
        self.formula = formula

    def prepare(self, crystal):
        return _Formula(crystal, self.formula)

    def compute(self, prepared, positions, cells, n_atoms):
        return compute_each(prepared, positions, cells, n_atoms)


class _Formula:
    def __init__(self, crystal, formula):
        self.crystal, self.formula = crystal, formula

    def compute(self, positions, cell):
        now = Crystal(self.crystal.numbers, positions, cell, self.crystal.z)
        return self.formula(now), 0 * positions, 0 * cell
