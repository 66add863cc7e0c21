"""Commands run in the test's process."""

from collections.abc import Sequence

from data_prep.__main__ import main


def matl_data(arguments: Sequence[str]) -> int:
    """Runs `matl-data` and returns the exit code that the shell would see."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
