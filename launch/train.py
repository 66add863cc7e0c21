"""Trains one network for all tasks of a shard set. Start it with `accelerate launch`, or plainly on one device."""

import sys

from matl_scale.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
