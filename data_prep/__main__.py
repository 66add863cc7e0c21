"""The command `matl-data`: writes shard sets, changes their tasks, and looks into them."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from data_prep.commands import SUBCOMMANDS
from matl_scale.cli import run_command
from matl_scale.errors import InputError, explain_os_error
from matl_scale.text import without_addresses


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code; `run_command` says how errors end it."""
    given = sys.argv[1:] if arguments is None else arguments
    was_module = Path(sys.argv[0]).parts[-2:] == ("data_prep", "__main__.py")
    program = "python -m data_prep" if was_module else "matl-data"
    return run_command(program, lambda: start(given, program), after_interrupt="run the same command again to go on")


def start(given: Sequence[str], program: str) -> int:
    """Runs the subcommand that the command line asks for."""
    options = build_parser(program, given).parse_args(given)
    try:
        options.run(options)
    except BrokenPipeError:
        raise  # nobody reads what is printed
    except OSError as error:  # every error of the operating system can be repaired, and what is finished is kept
        reason = explain_os_error(error) or f"{without_addresses(str(error))}."
        raise InputError(f"{reason} Run the same command again when it is fixed.") from error
    return 0


def build_parser(program: str, given: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser of all subcommands, of which only the one in `given` has its options."""
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in SUBCOMMANDS.items():
        subcommand = subcommands.add_parser(name, help=text)
        if given and given[0] == name:
            import_module(f"data_prep.commands.{name}").add_options(subcommand)
    return parser


if __name__ == "__main__":
    sys.exit(main())
