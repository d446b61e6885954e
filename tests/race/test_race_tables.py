"""Numbers as people read them."""

import math

import pytest

from packflow_core.race.tables import number, numeric, with_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (math.nan, "–"), (math.inf, "–"), (12.0, "12"), (4.4e-16, "0"),
        (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.6, "1235"), (-3.456, "-3.46"),
        (2716.2, "2716"), (99.96, "100"),
    ],
)  # fmt: skip
def test_three_figures(value, text):
    assert number(value) == text


def metric(value, low, high, interval="bootstrap", unit=""):
    return {"value": value, "low": low, "high": high, "interval": interval, "unit": unit}


def test_values_with_their_intervals():
    assert with_interval(metric(1.5, 0.25, 12.0)) == "1.5 (0.25 to 12)"
    assert with_interval(metric(7.0, None, None)) == "7"
    assert with_interval(metric(None, None, None)) == "–"
    assert with_interval(None) == "–"
    assert with_interval(metric(0.0, 0.0, 3.456, "Poisson upper bound")) == "below 3.46"
    assert with_interval(metric(1.2345, 1.2, 1.3, unit="g/cm3")) == "1.234 (1.2 to 1.3)"


def test_columns_of_numbers_are_told_from_text():
    assert numeric(["1", "–", "-3 (1 to 2)", "below 4"])
    assert not numeric(["1", "random"])
