"""Predicts all tasks, or some, for images that need no labels. Each image is read and decoded once for all tasks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matl_scale.cli import program_name, run_command
from matl_scale.data.images.gate import MAX_PIXELS
from matl_scale.errors import InputError, shortened
from matl_scale.launcher import read_launch
from matl_scale.runs.layout import WHICH
from matl_scale.text import count_of

if TYPE_CHECKING:
    from matl_scale.deploy.predict import PredictionSummary


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-predict")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder, or a checkpoint")
    parser.add_argument(
        "--images",
        required=True,
        metavar="SOURCE",
        help="a folder of images, of tars (whose images are named TAR/MEMBER) or of Parquet files; one such file; or the URL "
        "of a folder of images",
    )
    parser.add_argument("--tasks", nargs="+", metavar="PATTERN", help="which tasks (default: all)")
    parser.add_argument("--out", type=Path, default=Path("predictions.parquet"), metavar="FILE")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)
    parser.add_argument("--batch-size", type=int, default=256, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read and decode")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help=f"leave out images with more pixels, of whatever format (default: {MAX_PIXELS})",
    )

    def run() -> int:
        return predict_and_print(parser.parse_args(arguments), program)

    return run_command(program, run, InputError, "run the same command again to go on")


def predict_and_print(options: argparse.Namespace, program: str) -> int:
    """Predicts, and prints what was written and what left out. Returns the exit code."""
    if read_launch().world_size > 1:
        raise InputError("This is one process. Start it without a launcher, once for each part of the images.")
    from matl_scale.deploy.predict import predict, skipped_path

    summary = predict(
        options.run,
        options.images,
        options.out,
        patterns=options.tasks,
        which=options.checkpoint,
        batch_size=options.batch_size,
        workers=options.workers,
        max_pixels=options.max_pixels,
    )
    report(program, options.out, summary, skipped_path(options.out))
    return 1 if summary.damaged else 0


def report(program: str, out: Path, summary: "PredictionSummary", skipped: Path) -> None:
    amount = f"{count_of(summary.num_images, 'image')} × {count_of(summary.num_tasks, 'task')}"
    print(f"{out}: {amount}, step {summary.step}; {summary.decided}")
    if summary.passed_over:
        print(f"{program}: {summary.passed_over}", file=sys.stderr)
    if summary.damaged:
        names = shortened(name for name, _ in summary.damaged)
        images = count_of(len(summary.damaged), "image was", plural="images were")
        print(f"{program}: {images} left out: {names}; reasons in {skipped}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
