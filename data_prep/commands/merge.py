"""`matl-data merge`: finishes a set that was written in parts."""

import argparse

from data_prep.commands.options import add_shard_set
from data_prep.commands.output import print_summary
from data_prep.shard_set import merge_shard_set


def add_options(merge: argparse.ArgumentParser) -> None:
    add_shard_set(merge)
    merge.set_defaults(run=lambda options: print_summary(merge_shard_set(options.folder)))
