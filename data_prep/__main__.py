"""The command `matl-data`: writes shard sets, changes their tasks, and looks into them."""

import argparse
import sys
from collections.abc import Sequence

from data_prep.commands import example, info, merge, preview, shard, tasks, verify
from matl_scale.errors import InputError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand. Returns the exit code: 0, or 2 after one line that says what was wrong with the input."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        print(f"matl-data: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"matl-data: error: {error}. Run the same command again when it is mended.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("matl-data: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="matl-data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (shard, example, merge, tasks, info, preview, verify):
        command.add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
