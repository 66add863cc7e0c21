"""Writes a shard set for the commands that do, and prints what was written."""

import argparse
from collections.abc import Callable
from pathlib import Path

from data_prep.dataset import Dataset
from data_prep.planning.make_plan import Options
from data_prep.planning.splits import Draw
from data_prep.shard_set import write_shard_set
from matl_scale.data.shards.manifest import Manifest
from matl_scale.text import count_of


def write(options: argparse.Namespace, build: Callable[[Path], Dataset], draw: Draw | None) -> None:
    """Writes a data set by the options of `add_output`, and prints a summary."""
    names = ("shard_mb", "resize", "dedupe", "max_pixels", "skip_bad", "workers", "partition")
    chosen = Options(draw=draw, **{name: getattr(options, name) for name in names})
    manifest = write_shard_set(build, options.out, chosen)
    if manifest is None:
        print(f"{options.out}: part {options.partition[0]} of {options.partition[1]} is written")
        return
    print_summary(manifest)


def print_summary(manifest: Manifest) -> None:
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    print(
        f"{manifest.root}: {count_of(manifest.num_samples, 'image')} ({splits}), {count_of(len(manifest.tasks), 'task')}, "
        f"{count_of(manifest.shards.num_rows, 'shard')}"
    )
