"""Commands run in the test's process, and their arguments."""

from collections.abc import Sequence
from pathlib import Path

from data_prep.__main__ import main


def matl_data(arguments: Sequence[str]) -> int:
    """Runs `matl-data` and returns the exit code that the shell would see."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def shard_arguments(
    source: Path, out: Path | str, *options: str, images: str = "images", labels: str = "labels.csv"
) -> list[str]:
    """Returns the arguments of `matl-data shard` for images and a label file in the folder `source`."""
    return ["shard", "--images", str(source / images), "--labels", str(source / labels), "--out", str(out), *options]
