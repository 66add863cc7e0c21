"""Options and last words of the commands that write a shard set."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

from data_prep.dataset import Dataset
from data_prep.planning.make_plan import Options
from data_prep.planning.splits import Draw
from data_prep.shard_set import write_shard_set
from matl_scale.data.shards.manifest import Manifest


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="the shard set to write: a folder or an fsspec URL")
    parser.add_argument(
        "--shard-mb", type=positive_float, default=256, metavar="MB", help="size of a shard in 10⁶ bytes (default: 256)"
    )
    parser.add_argument(
        "--resize",
        type=positive_int,
        metavar="PIXELS",
        help="scale and centre-crop to squares; without it image bytes stay untouched",
    )
    parser.add_argument("--seed", type=int, default=0, help="for drawn splits (default: 0)")
    parser.add_argument("--stratify", action="store_true", help="draw splits class by class, rare ones first")
    parser.add_argument(
        "--dedupe", action="store_true", help="leave out images whose bytes occur before; reads all twice"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out images that cannot be decoded, and list them"
    )
    parser.add_argument(
        "--workers", type=positive_int, default=count_cpus(), metavar="N", help="processes (default: one per CPU)"
    )
    parser.add_argument(
        "--partition",
        type=partition,
        metavar="I/N",
        help="write the I-th of N parts (from 1) and leave the set open; `matl-data merge` closes it",
    )


def build_options(options: argparse.Namespace, draw: Draw | None) -> Options:
    return Options(
        shard_mb=options.shard_mb,
        resize=options.resize,
        draw=draw,
        dedupe=options.dedupe,
        skip_bad=options.skip_bad,
        workers=options.workers,
        partition=options.partition,
    )


def write(options: argparse.Namespace, build: Callable[[Path], Dataset], draw: Draw | None) -> None:
    """Writes a data set and says what was written."""
    manifest = write_shard_set(build, options.out, build_options(options, draw))
    if manifest is None:
        print(f"{options.out}: part {options.partition[0]} of {options.partition[1]} is written")
        return
    say_complete(manifest)


def say_complete(manifest: Manifest) -> None:
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    print(
        f"{manifest.root}: {manifest.num_samples:,} images ({splits}), {len(manifest.tasks)} tasks, "
        f"{manifest.shards.num_rows} shards"
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
