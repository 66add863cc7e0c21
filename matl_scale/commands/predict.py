"""Answers all tasks, or some, for images that need no labels; each image is read and decoded once for all tasks."""

import argparse
import sys
from pathlib import Path

from matl_scale.cli import run_command
from matl_scale.deploy.predict import PROGRAM, predict
from matl_scale.runs.checkpoints.network import WHICH


def main() -> int:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder, or one network of it")
    parser.add_argument(
        "--images", required=True, metavar="PLACE", help="a folder of images, tars or Parquet, or a URL"
    )
    parser.add_argument("--tasks", nargs="+", default=["*"], metavar="PATTERN", help="which tasks (default: all)")
    parser.add_argument("--out", type=Path, default=Path("predictions.parquet"), metavar="FILE")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)
    parser.add_argument("--batch-size", type=int, default=256, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read and decode")
    options = parser.parse_args()
    return run_command(PROGRAM, lambda: 1 if predict(options) else 0)


if __name__ == "__main__":
    sys.exit(main())
