"""The command `matl-data`: writes shard sets, changes their tasks, and looks into them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.commands import example, info, merge, preview, shard, tasks, verify
from matl_scale.cli import run_command
from matl_scale.errors import InputError, explain_os_error
from matl_scale.text import without_addresses


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code; `run_command` says how errors end it."""
    was_module = Path(sys.argv[0]).parts[-2:] == ("data_prep", "__main__.py")
    parser = argparse.ArgumentParser(prog="python -m data_prep" if was_module else "matl-data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (shard, example, merge, tasks, info, preview, verify):
        command.add_command(commands)

    def work() -> int:
        options = parser.parse_args(arguments)
        try:
            options.run(options)
        except BrokenPipeError:
            raise  # nobody reads what is printed
        except OSError as error:  # every error of the operating system can be repaired, and what is finished is kept
            reason = explain_os_error(error) or f"{without_addresses(str(error))}."
            raise InputError(f"{reason} Run the same command again when it is fixed.") from error
        return 0

    return run_command(parser.prog, work, after_interrupt="run the same command again to go on")


if __name__ == "__main__":
    sys.exit(main())
