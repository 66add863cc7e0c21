"""`matl-data merge`: closes a set that was written in parts."""

import argparse

from data_prep.commands.output import say_complete
from data_prep.shard_set import merge_shard_set


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    merge = commands.add_parser("merge", help="close a shard set that was written with --partition")
    merge.add_argument("folder", metavar="DIR", help="the shard set: a folder or an fsspec URL")
    merge.set_defaults(run=lambda options: say_complete(merge_shard_set(options.folder)))
