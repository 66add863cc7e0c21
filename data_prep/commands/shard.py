"""`matl-data shard`: your own images and labels."""

import argparse

from data_prep.commands.output import add_output_options, write
from data_prep.labels.matrix import LabelColumns
from data_prep.planning.splits import Draw, check_split_name, parse_fractions
from data_prep.sources import labelled
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.versions import is_shard_set
from matl_scale.errors import InputError
from matl_scale.storage.store import Store


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    shard = commands.add_parser("shard", help="write your own images and labels as a shard set")
    shard.add_argument(
        "--images", required=True, metavar="DIR", help="folder of images, or Parquet with `name` and `image`; or a URL"
    )
    shard.add_argument(
        "--labels", required=True, metavar="FILE", help="CSV or Parquet, one row per image, a column per task; or a URL"
    )
    add_column_options(shard)
    splits = shard.add_mutually_exclusive_group()
    splits.add_argument(
        "--split",
        default="train",
        metavar="NAME",
        help="the split of all these images (default: train); a second call with another name adds it",
    )
    splits.add_argument("--split-column", metavar="NAME", help="column with the split of each image")
    splits.add_argument("--split-fractions", metavar="LIST", help="draw splits: train=0.8,val=0.1,test=0.1")
    shard.add_argument(
        "--allow-unmatched", action="store_true", help="leave out images without a label row, and the reverse"
    )
    add_output_options(shard)
    shard.set_defaults(run=run)


def add_column_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image-column", default="image", metavar="NAME", help="column with the image's name (default: image)"
    )
    parser.add_argument(
        "--tasks", nargs="+", default=["*"], metavar="PATTERN", help="columns to take as tasks (default: all others)"
    )
    parser.add_argument(
        "--text-columns",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns of CSV whose cells are words, 007 and 7 too",
    )


def run(options: argparse.Namespace) -> None:
    columns = LabelColumns(
        image=options.image_column, split=options.split_column, tasks=options.tasks, text=options.text_columns
    )
    fractions = parse_fractions(options.split_fractions) if options.split_fractions else None
    if options.stratify and not fractions:
        raise InputError("--stratify should come with --split-fractions: it says how splits are drawn.")
    split = check_split_name(options.split)
    out = Store(options.out)
    write(
        options,
        lambda scratch: labelled.build(
            options.images,
            options.labels,
            columns,
            scratch,
            split=split,
            allow_unmatched=options.allow_unmatched,
            known_tasks=read_manifest(out).tasks if is_shard_set(out) else (),
        ),
        Draw(fractions=fractions, stratify=options.stratify, seed=options.seed) if fractions else None,
    )
