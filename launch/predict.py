"""Answers all tasks, or some, for images that need no labels; each image is read and decoded once for all tasks."""

import sys

from matl_scale.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
