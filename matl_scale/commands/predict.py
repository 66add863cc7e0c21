"""Answers all tasks, or some, for images that need no labels; each image is read and decoded once for all tasks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matl_scale.cli import program_name, run_command
from matl_scale.deploy.predict import predict
from matl_scale.runs.checkpoints.network import WHICH


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-predict")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder, or one network of it")
    parser.add_argument(
        "--images", required=True, metavar="PLACE", help="a folder of images, tars or Parquet, or a URL"
    )
    parser.add_argument("--tasks", nargs="+", default=["*"], metavar="PATTERN", help="which tasks (default: all)")
    parser.add_argument("--out", type=Path, default=Path("predictions.parquet"), metavar="FILE")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)
    parser.add_argument("--batch-size", type=int, default=256, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read and decode")
    options = parser.parse_args(arguments)
    return run_command(program, lambda: 1 if predict(options) else 0)


if __name__ == "__main__":
    sys.exit(main())
