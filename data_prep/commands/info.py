"""`matl-data info`: what a shard set holds."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from data_prep.commands.options import add_shard_set
from data_prep.inspect.association_picture import draw_picture
from data_prep.inspect.info import print_info
from data_prep.inspect.routes import read_routes
from matl_scale.data.shards.label_association import associate, strongest_pairs
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.display import printable
from matl_scale.errors import InputError

NUM_PAIRS = 10


def add_options(info: argparse.ArgumentParser) -> None:
    add_shard_set(info, with_version=True)
    info.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="draw how strongly the labels of tasks are associated, as bias-corrected Cramér's V (.png, .svg, .pdf)",
    )
    info.add_argument(
        "--routes", type=Path, metavar="FILE", help="show the route of each task beside it, from a run's routes.parquet"
    )
    info.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    # a pipe has no width: keep lines whole for tools that search them
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    manifest = read_manifest(options.folder, options.version)
    print_info(manifest, console, read_routes(options.routes, manifest.task_names) if options.routes else None)
    path: Path | None = options.picture
    if path is not None:
        if path.suffix not in (".png", ".svg", ".pdf") or not path.absolute().parent.is_dir():
            raise InputError(f"--picture should be a .png, .svg or .pdf file in a folder that exists. Got {path}.")
        values = associate(manifest)
        draw_picture(values, manifest.task_names, path)
        for one, other, value in strongest_pairs(values, manifest.task_names, NUM_PAIRS):
            line = printable(f"  {value:.3f}  {one}, {other}")
            console.print(line, markup=False, emoji=False, soft_wrap=True)
        console.print(f"Bias-corrected Cramér's V of all pairs: {path}", markup=False, emoji=False, soft_wrap=True)
