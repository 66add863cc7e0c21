"""The command `matl-data`: `shard` and `example` write shard sets, `info` describes one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from data_prep.dataset import Dataset
from data_prep.images import match_images, open_images
from data_prep.info import print_info
from data_prep.labels import read_label_file
from data_prep.sources import cifar100, digits, fashion_mnist
from data_prep.splits import check_split_name, draw_splits, parse_fractions
from data_prep.write import write_shard_set
from matl_scale.data.shards import MANIFEST_FILE, InputError, read_manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand. Returns the exit code: 0, or 2 after one line that says what was wrong with the input."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        print(f"matl-data: error: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="matl-data", description="Prepare shard sets: images and a label matrix in tars."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_shard_command(commands)
    add_example_command(commands)
    info = commands.add_parser("info", help="describe a shard set: tasks, classes, counts, missing labels, shards")
    info.add_argument("folder", type=Path, metavar="DIR", help="the shard set")
    info.set_defaults(run=run_info)
    return parser


def add_shard_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    shard = commands.add_parser("shard", help="write your own images and labels as a shard set")
    shard.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of images, or Parquet with `name` and `image`"
    )
    shard.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="FILE",
        help="CSV or Parquet, one row per image, a column per task",
    )
    shard.add_argument(
        "--image-column", default="image", metavar="NAME", help="column with the image's name (default: image)"
    )
    shard.add_argument(
        "--tasks", nargs="+", default=["*"], metavar="PATTERN", help="columns to take as tasks (default: all others)"
    )
    splits = shard.add_mutually_exclusive_group()
    splits.add_argument(
        "--split",
        metavar="NAME",
        help="the split of all these images (default: train); a second call with another name adds it",
    )
    splits.add_argument("--split-column", metavar="NAME", help="column with the split of each image")
    splits.add_argument("--split-fractions", metavar="LIST", help="draw splits: train=0.8,val=0.1,test=0.1")
    shard.add_argument(
        "--allow-unmatched", action="store_true", help="leave out images without a label row, and the reverse"
    )
    shard.add_argument(
        "--resize",
        type=positive_int,
        metavar="PIXELS",
        help="scale and centre-crop to squares; without it image bytes stay untouched",
    )
    add_output_options(shard)
    shard.set_defaults(run=run_shard)


def add_example_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = commands.add_parser("example", help="write a known data set as a shard set")
    examples = example.add_subparsers(required=True, metavar="NAME")
    small = examples.add_parser("digits", help="1,797 scanned digits, 175 binary tasks; no download")
    small.set_defaults(run=lambda options: finish(options, digits.build(options.seed)))
    fashion = examples.add_parser("fashion-mnist", help="70,000 images, ten one-vs-rest tasks")
    fashion.set_defaults(run=run_fashion_mnist)
    cifar = examples.add_parser("cifar100", help="60,000 images, 20 superclass tasks or 100 one-vs-rest tasks")
    cifar.add_argument("--tasks", choices=("superclass", "fine"), default="superclass", help="(default: superclass)")
    cifar.set_defaults(run=run_cifar100)
    for parser in (fashion, cifar):
        parser.add_argument(
            "--root",
            type=Path,
            required=True,
            metavar="DIR",
            help="where the files are, or go when they are downloaded",
        )
        parser.add_argument(
            "--val-fraction",
            type=fraction,
            default=0.1,
            metavar="F",
            help="share of the training part that becomes `val` (default: 0.1)",
        )
    for parser in (small, fashion, cifar):
        add_output_options(parser)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the shard set to write")
    parser.add_argument(
        "--shard-mb", type=positive_float, default=256, metavar="MB", help="size of a shard in 10⁶ bytes (default: 256)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for drawn splits (default: 0)")


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"should be at least 1, got {text}")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"should be above 0, got {text}")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"should be at least 0 and below 1, got {text}")
    return value


def run_shard(options: argparse.Namespace) -> None:
    joins = (options.out / MANIFEST_FILE).is_file()
    labels = read_label_file(
        options.labels,
        options.image_column,
        options.split_column,
        options.tasks,
        known_tasks=read_manifest(options.out).tasks if joins else (),
    )
    if labels.splits is not None:
        splits = np.array([check_split_name(name) for name in labels.splits], dtype=object)
    elif options.split_fractions:
        splits = draw_splits(len(labels.images), parse_fractions(options.split_fractions), options.seed)
    else:
        splits = np.full(len(labels.images), check_split_name(options.split or "train"), dtype=object)
    dataset = match_images(open_images(options.images), labels, splits, options.allow_unmatched)
    finish(options, dataset, options.resize)


def run_fashion_mnist(options: argparse.Namespace) -> None:
    finish(options, fashion_mnist.build(options.root, options.val_fraction, options.seed))


def run_cifar100(options: argparse.Namespace) -> None:
    finish(options, cifar100.build(options.root, options.tasks, options.val_fraction, options.seed))


def finish(options: argparse.Namespace, dataset: Dataset, resize: int | None = None) -> None:
    manifest = write_shard_set(dataset, options.out, shard_mb=options.shard_mb, resize=resize)
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    print(
        f"{options.out}: {manifest.samples.num_rows:,} images ({splits}), {len(manifest.tasks)} tasks, "
        f"{manifest.shards.num_rows} shards"
    )


def run_info(options: argparse.Namespace) -> None:
    # a pipe has no width: leave the lines whole for whoever searches them
    print_info(read_manifest(options.folder), Console(width=None if sys.stdout.isatty() else 200))


if __name__ == "__main__":
    sys.exit(main())
