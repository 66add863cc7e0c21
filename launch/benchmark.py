"""`matl-benchmark` as a script, for `accelerate launch launch/benchmark.py`."""

import sys

from matl_scale.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
