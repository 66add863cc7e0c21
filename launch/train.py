"""Trains one network for all tasks of a shard set. Start it with `accelerate launch`, or plainly on one device."""

import sys

from rich.console import Console

from matl_scale.config import exit_with_error, parse_config
from matl_scale.errors import InputError
from matl_scale.tracking.mlflow_follower import default_store
from matl_scale.train.loop import train
from matl_scale.train.progress import print_results
from matl_scale.train.setup import build_accelerator

PROGRAM = "train.py"


def main() -> None:
    config = parse_config(sys.argv[1:], PROGRAM, __doc__ or "")
    try:
        accelerator = build_accelerator(config.train.precision)
        outcome = train(config, accelerator)
    except InputError as error:
        exit_with_error(PROGRAM, error)
    if accelerator.is_main_process:
        console = Console()
        print_results(console, outcome.tasks, config.eval.split, outcome.step, outcome.metrics)
        console.print(f"results: {config.run.folder}", highlight=False, soft_wrap=True)
        if config.track.mlflow:
            store = default_store(config.run.folder.parent)
            command = store if store.startswith("http") else f"mlflow ui --backend-store-uri {store}"
            console.print(f"look at it: {command}", highlight=False, soft_wrap=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
