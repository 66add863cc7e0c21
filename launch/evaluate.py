"""Evaluates a network of a run on a split: every task, every labelled sample once."""

import sys

from matl_scale.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
