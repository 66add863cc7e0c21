"""Commands run in the test's process, and their arguments."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from data_prep.__main__ import main
from matl_scale.report.__main__ import main as matl_report


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


def refuse_report(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs `matl-report`, which has to end with the exit code of unusable input and one line of error; returns the line."""
    with pytest.raises(SystemExit) as ended:
        matl_report(arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("matl-report: error: ")
    return captured.err
