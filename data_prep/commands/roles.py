"""What the columns of a label file are, from the options of the commands that read one."""

import argparse

from data_prep.labels.matrix import ColumnRoles
from data_prep.labels.one_vs_rest import OneVsRest
from data_prep.labels.rare_classes import RareRule


def column_roles(options: argparse.Namespace, split: str | None = None) -> ColumnRoles:
    """Returns what the options of `add_label_file` and `add_classes` say about the columns of a label file."""
    return ColumnRoles(
        image=options.image_column,
        split=split,
        tasks=options.tasks,
        exclude=options.exclude,
        text=options.text_columns,
        missing=options.missing_values,
        positive=options.positive,
        rare=RareRule(min_count=options.min_class_count, become=options.rare),
        one_vs_rest=OneVsRest(columns=options.one_vs_rest, separator=options.separator),
    )
