"""What a study is: rows of a table, each measured with several seeds, one training at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from matl_scale.benchmark.studies.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Single:
    """What one training showed: one row of one table, measured with one seed."""

    table: str
    row: str
    seed: int
    values: Mapping[str, float]  # by the name of the table's column, NaN where undefined


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study by name."""

    name: str
    needs: tuple[str, ...] = ()  # the data sets whose folders it has to be given
    conditions: str  # in a sentence or two: the data, the network and the budget, the same for all rows
    singles: Callable[[Workbench], Iterator[Single]]  # trains what is not trained yet, and yields after each training
    are_shares: bool = False  # whether every value is 0 or 1, so that cells are counts
