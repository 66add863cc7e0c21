"""`matl-data example`: well-known data sets, read as they are published."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.commands.options import add_output, fraction
from data_prep.commands.output import write
from data_prep.dataset import Dataset
from data_prep.planning.splits import Draw, parse_fractions
from data_prep.sources import celeba, cifar10, cifar100, cub, decathlon, digits, fashion_mnist, zappos
from matl_scale.errors import InputError

# options beside those that all examples have
OPTIONS: dict[str, dict[str, Any]] = {
    "--root": {"type": Path, "required": True, "metavar": "DIR", "help": "where its files are, or are downloaded to"},
    "--val-fraction": {
        "type": fraction,
        "default": 0.1,
        "metavar": "F",
        "help": "share of the training images that becomes `val` (default: 0.1)",
    },
    "--split-fractions": {
        "default": "train=0.8,val=0.1,test=0.1",
        "metavar": "LIST",
        "help": "there are no official splits (default: train=0.8,val=0.1,test=0.1)",
    },
    "--kind": {"choices": ("superclass", "fine"), "default": "superclass", "help": "(default: superclass)"},
    "--min-certainty": {
        "type": int,
        "choices": (1, 2, 3, 4),
        "default": 3,
        "help": "labels below are missing: 1 not visible, 2 guessing, 3 probably, 4 definitely (default: 3)",
    },
}
ROOT, ROOT_AND_VAL = ("--root",), ("--root", "--val-fraction")


class Example(NamedTuple):
    """A data set that `matl-data example` knows: one line of help, how it is built from the options, and its options."""

    help: str
    build: Callable[[argparse.Namespace], Dataset]
    options: tuple[str, ...]


EXAMPLES = {
    "digits": Example("1,797 scanned digits, 175 binary tasks; no download", lambda o: digits.build(o.seed), ()),
    "fashion-mnist": Example(
        "70,000 images, ten one-vs-rest tasks", lambda o: fashion_mnist.build(o.root), ROOT_AND_VAL
    ),
    "cifar10": Example("60,000 images, ten one-vs-rest tasks", lambda o: cifar10.build(o.root), ROOT_AND_VAL),
    "cifar100": Example(
        "60,000 images, 20 superclass tasks or 100 one-vs-rest tasks",
        lambda o: cifar100.build(o.root, o.kind),
        ("--kind", *ROOT_AND_VAL),
    ),
    "celeba": Example("202,599 faces, 40 attributes", lambda o: celeba.build(o.root), ROOT),
    "cub": Example(
        "11,788 birds, 312 attributes; uncertain labels are missing",
        lambda o: cub.build(o.root, o.min_certainty),
        ("--min-certainty", *ROOT_AND_VAL),
    ),
    "zappos": Example(
        "50,025 shoes (UT-Zappos50K), a task per attribute",
        lambda o: zappos.build(o.root),
        ("--root", "--split-fractions"),
    ),
    "decathlon": Example("Visual Decathlon: ten data sets, a task each", lambda o: decathlon.build(o.root), ROOT),
}


def add_options(command: argparse.ArgumentParser) -> None:
    names = command.add_subparsers(required=True, metavar="NAME")
    for name, example in EXAMPLES.items():
        parser = names.add_parser(name, help=example.help)
        for option in example.options:
            parser.add_argument(option, **OPTIONS[option])
        parser.add_argument("--tasks", nargs="+", metavar="PATTERN", help="tasks to include (default: all)")
        add_output(parser)
        parser.set_defaults(run=run, build=example.build)


def run(options: argparse.Namespace) -> None:
    def build(scratch: Path) -> Dataset:  # noqa: ARG001 - these data sets fit into memory
        dataset: Dataset = options.build(options)
        return dataset.select(options.tasks)

    write(options, build, choose_draw(options))


def choose_draw(options: argparse.Namespace) -> Draw | None:
    """Returns how splits are drawn: `val` from the training images, all of them, or (None) none."""
    share = getattr(options, "val_fraction", 0.0)
    fractions = {"train": 1 - share, "val": share} if share else None
    if text := getattr(options, "split_fractions", ""):
        fractions = parse_fractions(text)
    if options.stratify and not fractions:
        raise InputError("--stratify needs a split that is drawn: this data set has its own.")
    return Draw(fractions=fractions, stratify=options.stratify, seed=options.seed) if fractions else None
