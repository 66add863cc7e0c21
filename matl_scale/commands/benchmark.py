"""Measures what routing costs and saves here, each figure beside its reference. Start it plainly, or with `accelerate launch`
on at least two ranks for the suite `sync`; the other suites then run on the first rank alone. Studies train small networks, and
continue where they were interrupted."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matl_scale.benchmark.runner import BY_NAME, DATA_SETS, SUITES, BenchmarkOptions, option_of, run_benchmark
from matl_scale.benchmark.studies.runner import STUDIES
from matl_scale.cli import program_name, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-benchmark")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"{', '.join(SUITES)} (default: all for which there are enough ranks, but not {', '.join(BY_NAME)}), or studies: "
        f"{', '.join(STUDIES)}",
    )
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="rounds per figure (default: 20)")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="figures, or trainings of a study, whose name contains this"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE, as a list of objects")
    for name in DATA_SETS:
        parser.add_argument(
            option_of(name),
            type=Path,
            metavar="DIR",
            help="the folder of its files, for the suite data and for studies",
        )
    parser.add_argument("--work", type=Path, metavar="DIR", help="the folder of studies: their data, runs and tables")
    return run_command(program, lambda: start(parser.parse_args(arguments)))


def start(options: argparse.Namespace) -> int:
    found = vars(options)
    data = {name: path for name in DATA_SETS if (path := found.pop(name)) is not None}
    run_benchmark(BenchmarkOptions(**found, data=data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
