"""What a board shows, and how its numbers are printed."""

from __future__ import annotations

import re

import pytest

from harness.report.columns import SHOWN, fixed, signed, table, text
from harness.report.ranking import COLUMNS
from tests.report.boards import one
from tests.report.test_board_intervals import sure
from tests.support_cells import cell, metrics


@pytest.mark.parametrize(
    ("column", "value", "printed"),
    [
        ("score", 0.11272, "0.1127"),
        ("epsilon_median", 2.2, "2.20"),
        ("kl", 4.5554, "4.555"),
        ("kl", 1234567.8, "1.23e+06"),
        ("ks_rejected", 0.4625, "46.2%"),
        ("seconds_per_model", 1.11e-06, "0.000"),
        ("normalised", -0.001, "0.00"),
        ("cost_ratio", float("nan"), "–"),
        ("kl", None, "–"),
    ],
)
def test_numbers(column, value, printed):
    assert text(column, value) == printed


def test_a_column_of_numbers_has_one_number_of_decimals():
    rows = [(f"m{i}", x) for i, x in enumerate((0.2, 0.25, 2.0, 12.3456789))]
    cells = []
    for name, x in rows:
        values = {key: value.model_copy(update={"value": x}) for key, value in metrics(x).items()}
        cells.append(cell(name, metrics=values, cost__seconds_per_model=x, cost__ratio=x))
    shown = table(one(*cells))
    for heading, *column in zip(shown.headings, *shown.rows, strict=True):
        if heading not in ("#", "method", "recipe"):
            assert len({len(re.match(r"\d+\.(\d+)", value)[1]) for value in column}) == 1, heading


def test_differences_that_round_to_zero_keep_their_side():
    assert (signed(3)(-0.0001), signed(3)(0.0001), fixed(3)(-0.0001)) == ("-0.000", "+0.000", "0.000")


def test_every_shown_column_is_one_of_the_board():
    made = one(sure("retrain", 0.2), sure("identity", 0.05, floor=True))
    shown = table(made)
    assert shown.headings == [column.heading for column in SHOWN.values()]
    assert set(SHOWN) - {"interval", "ties", "normalised"} <= set(COLUMNS)
    assert shown.headings[shown.name] == "method"
    assert shown.references == 2


def test_optional_columns_are_left_out_where_no_row_has_them():
    headings = table(one(cell("a"))).headings
    assert not {"95 %", "ties", "normalised"} & set(headings)
