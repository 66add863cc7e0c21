"""Command-line options that several subcommands share, and the types of their values."""

import argparse
import os
import re

from data_prep.labels.rare_classes import RARE
from matl_scale.data.images.gate import MAX_PIXELS


def add_shard_set(parser: argparse.ArgumentParser, with_version: bool = False) -> None:
    """Adds the argument `folder`, and `--version` if asked."""
    parser.add_argument("folder", metavar="DIR", help="the shard set: a folder or an fsspec URL")
    if with_version:
        parser.add_argument(
            "--version", default="", metavar="V", help="version of the labels: its number or id (default: newest)"
        )


def add_label_file(parser: argparse.ArgumentParser) -> None:
    """Adds `--labels` and the options that say what its columns mean."""
    parser.add_argument(
        "--labels",
        required=True,
        metavar="FILE",
        help="CSV (commas, semicolons, tabs or bars) or Parquet, one row per image, a column per task; or a URL",
    )
    parser.add_argument(
        "--image-column", default="image", metavar="NAME", help="column with the image's name (default: image)"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="columns to use as tasks; an exact name wins over a pattern (default: all others that have a name)",
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="columns that are no tasks, as prices and comments; an exact name wins over a pattern",
    )
    parser.add_argument(
        "--text-columns",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="CSV columns whose cells are text even if they look like numbers (007 and 7 differ)",
    )
    parser.add_argument(
        "--missing-values",
        action="append",
        default=[],
        metavar="WORDS",
        help="words between commas that mean a missing label, or COLUMN=WORDS for one column; '' for none; may be repeated; "
        "--missing-values=-,? for words that begin with a minus (default: pandas' words, as NA, N/A, NaN, null, None). Empty "
        "cells always do",
    )


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide the classes of new tasks."""
    parser.add_argument(
        "--positive",
        action="append",
        default=[],
        metavar="TASK=CLASS",
        help="the positive class of a binary task, or of all that match a pattern and have it; may be repeated (default: the "
        "one that is no denial, as yes of no/yes; else the later in order)",
    )
    parser.add_argument(
        "--min-class-count",
        type=positive_int,
        default=1,
        metavar="N",
        help="classes with fewer labels in the file are rare, unless the set that rows will join has them (default: 1, none is)",
    )
    parser.add_argument(
        "--rare",
        choices=RARE,
        default="drop",
        help="rare classes become missing labels, or one class `other` (default: drop)",
    )
    parser.add_argument(
        "--one-vs-rest",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN",
        help="make a binary task COLUMN:CLASS of each class of these columns, instead of the column, or "
        "beside it if --tasks names it",
    )
    parser.add_argument(
        "--separator",
        default="",
        metavar="TEXT",
        help="what stands between several values in a cell of these columns, as '|' in red|blue",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=positive_int, default=count_cpus(), metavar="N", help="processes (default: one per CPU)"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how a shard set is written."""
    parser.add_argument("--out", required=True, metavar="DIR", help="the shard set to write: a folder or an fsspec URL")
    parser.add_argument(
        "--shard-mb", type=positive_float, default=256, metavar="MB", help="size of a shard in 10⁶ bytes (default: 256)"
    )
    parser.add_argument(
        "--resize",
        type=positive_int,
        metavar="PIXELS",
        help="scale and centre-crop to upright squares; without it the bytes of the images stay as they are",
    )
    parser.add_argument(
        "--max-pixels",
        type=positive_int,
        default=MAX_PIXELS,
        metavar="N",
        help=f"refuse images with more pixels, of whatever format (default: {MAX_PIXELS})",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of drawn splits (default: 0)")
    parser.add_argument("--stratify", action="store_true", help="draw splits class by class, rare classes first")
    parser.add_argument(
        "--dedupe",
        action="store_true",
        help="leave out images with the bytes of an earlier one; reads all images twice",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be used, and list them")
    add_workers(parser)
    parser.add_argument(
        "--partition",
        type=partition,
        metavar="I/N",
        help="write part I of N (from 1) without finishing the set; `matl-data merge` finishes it",
    )


def count_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"should be at least 1, got {text}")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"should be above 0, got {text}")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"should be at least 0 and below 1, got {text}")
    return value


def partition(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"should be I/N with I from 1 to N (in Slurm: --array=1-N), got {text}")
    return int(found[1]), int(found[2])
