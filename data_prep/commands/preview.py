"""`matl-data preview`: real samples of one task, class by class."""

import argparse
import re
from pathlib import Path

from data_prep.commands.options import add_shard_set, positive_int
from data_prep.inspect.preview import build_preview
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.storage.files import write_text


def add_options(preview: argparse.ArgumentParser) -> None:
    add_shard_set(preview, with_version=True)
    preview.add_argument("--task", required=True, metavar="NAME", help="the task")
    preview.add_argument("--split", metavar="NAME", help="split whose samples are shown (default: all)")
    preview.add_argument("--count", type=positive_int, default=16, metavar="N", help="samples per class (default: 16)")
    preview.add_argument("--seed", type=int, default=0, help="seed that draws the samples (default: 0)")
    preview.add_argument("--out", type=Path, metavar="FILE", help="the page (default: preview-NAME.html)")
    preview.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    out = options.out or Path(f"preview-{re.sub(r'[^A-Za-z0-9._-]+', '_', options.task)[:100]}.html")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out should be a file in a folder that exists. Got {out}.")
    manifest = read_manifest(options.folder, options.version)
    page = build_preview(manifest, options.task, options.split, options.count, options.seed)
    write_text(out, page)
    print(f"{out}: {len(page) / 1e6:.1f} MB")
