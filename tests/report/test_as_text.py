"""How large numbers and names are written."""

import math

import pytest

from matl_scale.report.markdown import table
from matl_scale.report.sweep.as_text import format_amount


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999.4, "999"), (999.6, "1k"), (147_000, "147k"), (999_600, "1M"), (1.254e12, "1.25T"), (math.nan, "")],
)
def test_amounts_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert format_amount(value) == text


def test_names_are_no_markup() -> None:
    assert table(["class"], [["<unk>"], ["a|b"], ["digit_in_3"], ["`q`"]]).splitlines()[2:] == [
        "| \\<unk\\> |",
        "| a\\|b |",
        "| digit_in_3 |",
        "| \\`q\\` |",
    ]
