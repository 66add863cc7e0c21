"""`matl-evaluate` as a script, for `accelerate launch launch/evaluate.py`."""

import sys

from matl_scale.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
