"""`matl-sweep` as a script."""

import sys

from matl_scale.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main())
