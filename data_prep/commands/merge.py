"""`matl-data merge`: finishes a set that was written in parts."""

from data_prep.commands.options import Subparsers, add_shard_set
from data_prep.commands.output import print_summary
from data_prep.shard_set import merge_shard_set


def add_command(commands: Subparsers) -> None:
    merge = commands.add_parser("merge", help="finish a shard set that was written with --partition")
    add_shard_set(merge)
    merge.set_defaults(run=lambda options: print_summary(merge_shard_set(options.folder)))
