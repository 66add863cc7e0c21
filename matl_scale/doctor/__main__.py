"""matl-doctor: checks a run before it starts. It takes the arguments of `matl-train`, and --ranks.

With --backbones it lists the models that can be routed instead; with --only, some of them, whose entries in the file of --json
are replaced.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matl_scale.cli import run_command
from matl_scale.errors import InputError

PROGRAM = "matl-doctor"


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(PROGRAM, lambda: read_and_run(arguments))


def read_and_run(arguments: Sequence[str] | None) -> int:
    """Reads the command line and runs the doctor."""
    parser = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="ranks of the run (default: the job's or this machine's)"
    )
    parser.add_argument("--backbones", action="store_true", help="list the models that can be routed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="with --backbones: write the list there too")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="with --backbones: only models of these names")
    options, others = parser.parse_known_args(arguments)
    if {"-h", "--help"} & set(others):
        usage = f"usage: {PROGRAM} --config FILE [--section.key VALUE ...] [--ranks N]"
        print(f"{usage}\n       {PROGRAM} --backbones [--json FILE] [--only PATTERN ...]\n\n{__doc__}")
        return 0
    for name in ("json", "only"):
        if getattr(options, name) is not None and not options.backbones:
            raise InputError(f"--{name} goes with --backbones.")
    if options.backbones and others:
        raise InputError(f"--backbones takes no other arguments than --json and --only. Got {' '.join(others)}.")
    if options.backbones:
        from matl_scale.doctor.backbones import list_backbones

        return list_backbones(options.json, options.only)
    from matl_scale.doctor.examine import run_doctor
    from matl_scale.train.parse_config import parse_config

    return run_doctor(parse_config(others, PROGRAM, __doc__ or ""), options.ranks)


if __name__ == "__main__":
    sys.exit(main())
