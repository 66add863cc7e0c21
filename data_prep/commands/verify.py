"""`matl-data verify`: whether a shard set is what its manifest says."""

import argparse

from data_prep.commands.options import add_shard_set, add_workers
from data_prep.inspect.verify import verify_shard_set
from matl_scale.errors import InputError


def add_options(verify: argparse.ArgumentParser) -> None:
    add_shard_set(verify)
    verify.add_argument("--quick", action="store_true", help="read the tables only, not the tars")
    add_workers(verify)
    verify.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    findings = verify_shard_set(options.folder, options.quick, options.workers)
    for finding in findings:
        print(finding)
    if findings:
        raise InputError(
            f"{options.folder}: {len(findings)} findings. Prepare what is damaged again, or restore it from a copy."
        )
    print(f"{options.folder}: nothing is wrong" + (" in the tables; the tars were not read" if options.quick else ""))
