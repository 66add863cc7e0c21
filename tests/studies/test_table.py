"""Tables of studies: means, intervals, counts, and what is not defined."""

import math

import numpy as np
import pytest
from scipy import stats

from matl_scale.benchmark.studies.study import Single
from matl_scale.benchmark.studies.table import as_csv, as_markdown, format_cell, format_share, mean_and_interval


def test_the_interval_is_students() -> None:
    values = [0.61, 0.58, 0.66, 0.60]
    mean, half = mean_and_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean - half == pytest.approx(low)
    assert mean + half == pytest.approx(high)


def test_what_is_not_defined_is_left_out() -> None:
    assert format_cell([math.nan]) == "–"
    assert format_cell([0.25, math.nan]) == "0.250"
    assert mean_and_interval([0.25, math.nan, 0.35]) == mean_and_interval([0.25, 0.35])


def test_shares_are_counts_with_exact_intervals() -> None:
    assert format_share([0.0] * 50) == "0 of 50 (0.0% to 7.1%)"
    assert format_share([1.0, 0.0, 1.0, 1.0]) == "3 of 4 (19.4% to 99.4%)"


def test_rows_and_columns_keep_their_order() -> None:
    singles = [
        Single(table="AP", row=row, seed=seed, values={column: value})
        for seed in (0, 1)
        for row, column, value in (("b", "1:10", 0.5 + seed), ("a", "1:10", 90.0), ("b", "1:100", math.nan))
    ]
    assert as_markdown(singles, are_shares=False).splitlines() == [
        "| AP | seeds | 1:10 | 1:100 |",
        "| --- | --- | --- | --- |",
        "| b | 2 | 1.000 ± 6.353 | – |",
        "| a | 2 | 90.0 ± 0.0 | – |",
    ]
    assert as_csv(singles).splitlines()[:4] == [
        "table,row,seed,measure,value",
        "AP,b,0,1:10,0.5",
        "AP,a,0,1:10,90.0",
        "AP,b,0,1:100,",
    ]
