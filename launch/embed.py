"""`matl-embed` as a script, for `accelerate launch launch/embed.py`."""

import sys

from matl_scale.commands.embed import main

if __name__ == "__main__":
    sys.exit(main())
