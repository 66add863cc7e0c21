"""`matl-data shard`: your own images and labels."""

import argparse
import sys

from data_prep.commands.options import add_classes, add_label_file, add_output
from data_prep.commands.output import write
from data_prep.commands.roles import column_roles
from data_prep.labels.split_names import check_split_name, describe_changes, usual_names
from data_prep.planning.splits import Draw, parse_fractions
from data_prep.sources import labelled
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.versions import is_shard_set
from matl_scale.errors import InputError
from matl_scale.storage.store import Store


def add_options(shard: argparse.ArgumentParser) -> None:
    shard.add_argument(
        "--images",
        required=True,
        metavar="DIR",
        help="folder of images, of tars (whose images are named TAR/MEMBER), or of Parquet with `name` and `image`; or one such "
        "file, or the URL of a folder of images",
    )
    add_label_file(shard)
    add_classes(shard)
    splits = shard.add_mutually_exclusive_group()
    splits.add_argument(
        "--split",
        default="train",
        metavar="NAME",
        help="the split of all these images (default: train); a second call with another name adds it",
    )
    splits.add_argument(
        "--split-column",
        metavar="NAME",
        help="column with the split of each image; usual words (Training, dev; or 0, 1, 2) are read as train, val, test",
    )
    splits.add_argument("--split-fractions", metavar="LIST", help="draw splits: train=0.8,val=0.1,test=0.1")
    shard.add_argument(
        "--allow-unmatched", action="store_true", help="leave out images without a label row, and rows without an image"
    )
    add_output(shard)
    shard.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    roles = column_roles(options, options.split_column)
    fractions = parse_fractions(options.split_fractions) if options.split_fractions else None
    if options.stratify and not fractions:
        raise InputError("--stratify needs --split-fractions: it says how splits are drawn.")
    out = Store(options.out)
    existing = read_manifest(out) if is_shard_set(out) else None
    split = usual_names([options.split, *(existing.splits if existing else ())])[options.split]
    if split != options.split:
        print(f"--split: {describe_changes({options.split: split})}", file=sys.stderr)
    check_split_name(split)
    write(
        options,
        lambda scratch: labelled.build(
            options.images,
            options.labels,
            roles,
            scratch,
            split=split,
            allow_unmatched=options.allow_unmatched,
            known_tasks=existing.tasks if existing else (),
        ),
        Draw(fractions=fractions, stratify=options.stratify, seed=options.seed) if fractions else None,
    )
