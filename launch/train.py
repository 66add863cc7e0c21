"""`matl-train` as a script, for `accelerate launch launch/train.py`."""

import sys

from matl_scale.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
