"""Measures what routing costs and saves here, each figure beside its reference. Start it plainly, or with `accelerate launch`"""

import sys

from matl_scale.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
