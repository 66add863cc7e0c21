"""`matl-data info`: what a shard set holds."""

import argparse
import sys

from rich.console import Console

from data_prep.info import print_info
from matl_scale.data.manifest import read_manifest


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    info = commands.add_parser("info", help="describe a shard set: tasks, classes, counts, missing labels, shards")
    info.add_argument("folder", metavar="DIR", help="the shard set: a folder or an fsspec URL")
    info.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    # a pipe has no width: leave the lines whole for whoever searches them
    print_info(read_manifest(options.folder), Console(width=None if sys.stdout.isatty() else 200))
