"""`matl-data example`: known data sets, in the form in which they are downloaded."""

import argparse
from pathlib import Path

from data_prep.commands.output import add_output_options, fraction, write
from data_prep.dataset import Dataset
from data_prep.planning.splits import Draw, parse_fractions
from data_prep.sources import celeba, cifar10, cifar100, cub, decathlon, digits, fashion_mnist, zappos
from matl_scale.errors import InputError


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = commands.add_parser("example", help="write a known data set as a shard set")
    names = example.add_subparsers(required=True, metavar="NAME")
    small = names.add_parser("digits", help="1,797 scanned digits, 175 binary tasks; no download")
    small.set_defaults(build=lambda options: digits.build(options.seed))
    fashion = names.add_parser("fashion-mnist", help="70,000 images, ten one-vs-rest tasks")
    fashion.set_defaults(build=lambda options: fashion_mnist.build(options.root))
    ten = names.add_parser("cifar10", help="60,000 images, ten one-vs-rest tasks")
    ten.set_defaults(build=lambda options: cifar10.build(options.root))
    hundred = names.add_parser("cifar100", help="60,000 images, 20 superclass tasks or 100 one-vs-rest tasks")
    hundred.add_argument("--kind", choices=("superclass", "fine"), default="superclass", help="(default: superclass)")
    hundred.set_defaults(build=lambda options: cifar100.build(options.root, options.kind))
    faces = names.add_parser("celeba", help="202,599 faces, 40 attributes")
    faces.set_defaults(build=lambda options: celeba.build(options.root))
    birds = names.add_parser("cub", help="11,788 birds, 312 attributes; uncertain ones are missing")
    birds.add_argument(
        "--min-certainty",
        type=int,
        choices=(1, 2, 3, 4),
        default=3,
        help="labels below are missing: 1 not visible, 2 guessing, 3 probably, 4 definitely (default: 3)",
    )
    birds.set_defaults(build=lambda options: cub.build(options.root, options.min_certainty))
    shoes = names.add_parser("zappos", help="50,025 shoes (UT-Zappos50K), a task per attribute")
    shoes.set_defaults(build=lambda options: zappos.build(options.root))
    ten_domains = names.add_parser("decathlon", help="Visual Decathlon: ten data sets, a task each")
    ten_domains.set_defaults(build=lambda options: decathlon.build(options.root))
    for parser in (fashion, ten, hundred, faces, birds, shoes, ten_domains):
        parser.add_argument(
            "--root", type=Path, required=True, metavar="DIR", help="where its files are, or are downloaded to"
        )
    for parser in (fashion, ten, hundred, birds):
        parser.add_argument(
            "--val-fraction",
            type=fraction,
            default=0.1,
            metavar="F",
            help="share of the training part that becomes `val` (default: 0.1)",
        )
    shoes.add_argument(
        "--split-fractions",
        default="train=0.8,val=0.1,test=0.1",
        metavar="LIST",
        help="there are no official splits (default: train=0.8,val=0.1,test=0.1)",
    )
    for parser in (small, fashion, ten, hundred, faces, birds, shoes, ten_domains):
        parser.add_argument("--tasks", nargs="+", default=["*"], metavar="PATTERN", help="tasks to take (default: all)")
        add_output_options(parser)
        parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    def build(scratch: Path) -> Dataset:  # noqa: ARG001 - these data sets fit into memory
        dataset: Dataset = options.build(options)
        return dataset.select(options.tasks)

    write(options, build, choose_draw(options))


def choose_draw(options: argparse.Namespace) -> Draw | None:
    """Returns how splits are drawn: a part of the training split as `val`, or all, or not at all."""
    share = getattr(options, "val_fraction", 0.0)
    fractions = {"train": 1 - share, "val": share} if share else None
    if text := getattr(options, "split_fractions", ""):
        fractions = parse_fractions(text)
    if options.stratify and not fractions:
        raise InputError("--stratify should come with a split that is drawn: this data set has its own.")
    return Draw(fractions=fractions, stratify=options.stratify, seed=options.seed) if fractions else None
