"""Writes the sub-networks of chosen tasks as networks of their own: dense, without routing, with σ² of the size."""

import sys

from matl_scale.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
